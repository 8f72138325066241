"""python -m benchmarks.judging [--reps N]: is the corrected win rate right when the judge is not?

A scripted judge, over HTTP, compares the answers of two arms in both orders. It takes the first answer 70% of the time
and the longer one otherwise; the arms are equally good, and one writes longer answers. Its two biases are printed as
`trimtab eval` finds them, and the arm's win rate: as a judge asked once with the arm first would give it, as the mean
of both orders, and at equal length, where 50% is right. Then the same with a judge that also sees what is better.

The repetitions draw many such runs, without HTTP, and count how often the 95% interval of each rate holds the rate that
the judge gives at equal length and in both places. `equal length, 1 term` is AlpacaEval 2 LC's form of the correction.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.trainers.evaluation.scripted_judge import habits, judging
from trainers.ask.engine import Engine
from trainers.evaluation.core import Estimate
from trainers.evaluation.stats.preference import length_controlled, preference, share, win_rate
from trainers.judge.pairwise import Item, Mark, Verdict, judge_pairs


@dataclass(frozen=True)
class World:
    """A judge: in a share `first` it takes the first answer, in `longer` the longer one, else the better one, which is
    the arm's in a share `good`. With `bend` it is a logistic judge instead: of the length, by `bend` for every
    doubling of it, of the place and of an arm's advantage `good`, in logits."""

    name: str
    first: float = 0.0
    longer: float = 0.0
    good: float = 0.5
    bend: float = 0.0

    @property
    def truth(self) -> float:
        """The arm's rate at equal length, over both places."""
        if self.bend:
            return sum(1 / (1 + math.exp(-self.good - place)) for place in (self.first, -self.first)) / 2
        return (self.first + self.longer) / 2 + (1 - self.first - self.longer) * self.good


WORLDS = (
    World("70% the first, else the longer", first=0.7, longer=0.3),
    World("40% the first, 30% the longer, else the better (70% the arm's)", first=0.4, longer=0.3, good=0.7),
    World("logistic: place, doubled length, no preference", first=1.0, good=0.0, bend=1.2),
    World("logistic: place, doubled length, a preference", first=1.0, good=0.6, bend=1.2),
)


def lengths(rng: random.Random, shift: float) -> tuple[int, int]:
    """Characters of the baseline's and of the arm's answer to one question."""
    question = rng.gauss(6, 0.4)
    return round(math.exp(question + rng.gauss(0, 0.35))), round(math.exp(question + shift + rng.gauss(0, 0.35)))


def drawn(world: World, n: int, shift: float, seed: int) -> list[Verdict]:
    """The verdicts of one run."""
    rng = random.Random(f"{world.name} {n} {shift} {seed}")
    return [_verdict(world, rng, str(i), *lengths(rng, shift)) for i in range(n)]


def _verdict(world: World, rng: random.Random, name: str, before: int, after: int) -> Verdict:
    good = rng.random() < world.good

    def one(arm_first: bool) -> Mark:
        if world.bend:
            logit = world.good + world.bend * math.log2(after / before) + (world.first if arm_first else -world.first)
            arm = rng.random() < 1 / (1 + math.exp(-logit))
        else:
            u = rng.random()
            if u >= world.first and u < world.first + world.longer and before == after:
                return "tie"
            arm = arm_first if u < world.first else after > before if u < world.first + world.longer else good
        return "A" if arm == arm_first else "B"

    return Verdict(name, one(False), one(True), after - before)


RATES: tuple[tuple[str, Callable[[Sequence[Verdict]], Estimate]], ...] = (
    ("arm first, one order", lambda vs: share([float(v.back == "A") for v in vs], [v.question for v in vs])),
    ("mean of both orders", lambda vs: win_rate(vs, both=True)),
    ("equal length, 1 term", lambda vs: length_controlled(vs, steep=False).rate),
    ("equal length", lambda vs: length_controlled(vs).rate),
)


def repetitions(reps: int) -> None:
    print(f"\n{reps} runs each: the mean of the rate, and how often its 95% interval holds the truth")
    print(f"{'':44}{'n':>5}{'truth':>7}   " + "".join(f"{name:>22}" for name, _ in RATES))
    for world in WORLDS:
        print(world.name)
        for shift in (0.3, 0.6):
            for n in (80, 300):
                found: list[list[Estimate]] = [[] for _ in RATES]
                for seed in range(reps):
                    verdicts = drawn(world, n, shift, seed)
                    for rates, (_, rate) in zip(found, RATES, strict=True):
                        rates.append(rate(verdicts))
                cells = []
                for rates in found:
                    held = sum(e.low <= world.truth <= e.high for e in rates)
                    cells.append(f"{sum(e.value for e in rates) / reps:13.3f} {held / reps:8.1%}")
                where = f"  the arm's answers {math.exp(shift) - 1:.0%} longer"
                print(f"{where:44}{n:>5}{world.truth:>7.3f}   " + "".join(cells), flush=True)


def over_http(world: World, n: int, shift: float) -> None:
    """One run on a real socket: questions laid out, marks read, verdicts kept."""
    rng = random.Random(7)
    items = []
    for i in range(n):
        before, after = lengths(rng, shift)
        good = rng.random() < world.good
        texts = [
            (("Better. " if better else "Worse. ") + "word " * size)[: max(size, 8)]
            for better, size in ((not good, before), (good, after))
        ]
        items.append(Item(f"q{i}", (f"Question {i}?",), (texts[0],), (texts[1],)))
    with judging(habits(world.first, world.longer)) as judge, tempfile.TemporaryDirectory() as folder:
        verdicts = judge_pairs(Engine(judge.url, "scripted", temperature=0.0), items, Path(folder))
        asked = judge.answered
    found = preference(verdicts)
    assert found.position
    assert found.length
    assert found.controlled
    assert found.win_rate
    assert found.mean_rate
    print(f"\nover HTTP: {world.name}")
    print(f"  {n} pairs, {asked} verdicts; the arm's answers are {math.exp(shift) - 1:.0%} longer")
    first = world.first + (1 - world.first) / 2
    place = found.position
    print(f"  verdicts for the first place      {_shown(place.share)}  p {place.p:.4f}   (built in: {first:.1%})")
    print(f"  verdicts for the longer answer    {_shown(found.length.share)}  p {found.length.p:.4f}")
    print(f"  consistent in both orders         {found.consistent} of {found.items}: "
          f"{found.wins} wins, {found.losses} losses, {found.ties} ties; unreadable {found.unreadable}")  # fmt: skip
    print(f"  win rate, arm first, one order    {_shown(RATES[0][1](verdicts))}")
    print(f"  win rate, consistent verdicts     {_shown(found.win_rate)}")
    print(f"  win rate, mean of both orders     {_shown(found.mean_rate)}")
    print(f"  win rate at equal length          {_shown(found.controlled.rate)}   (truth: {world.truth:.1%})")


def _shown(found: Estimate) -> str:
    return f"{found.value:6.1%} ({found.low:.1%} to {found.high:.1%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reps", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=300, help="of the runs over HTTP")
    options = parser.parse_args()
    for world in WORLDS[:2]:
        over_http(world, options.pairs, 0.4)
    repetitions(options.reps)


if __name__ == "__main__":
    main()
