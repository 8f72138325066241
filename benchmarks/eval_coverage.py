"""python -m benchmarks.eval_coverage [--repetitions N]: do the evaluation's 95% intervals hold what they promise?

Arms whose rates and means are set answer questions, again and again; their answers go through `compare`, as an
evaluation's do. Printed for each case (n harmless questions and n exam questions, k samples of each, the baseline's
rate; all arms correlated through the question) and each measure is the share of repetitions in which the interval
holds the truth: the baseline's own value ("one arm"), its difference to an arm that differs ("differs") and to one
that does not ("the same"). For the same arm also how often p < 0.05, how often interval and p say different things of
its difference ("against") and how often both call it different ("both", which is what an evaluation says); in the last
line of a case, how often any of its comparisons came out so after Holm's correction.

    over_refusal, choice_first_letter   rates, of texts that are read as in any evaluation
    wins                                a rate through `extra`, with ties (a half)
    completion_tokens, total_s          means with long tails: log-normal, sigma 0.5 and 0.9

Ctrl-C or SIGTERM sums up what there is so far. Five minutes of one core.

--methods instead: the intervals beside those that they replace, for rates by adding up every outcome. --served: the
same over HTTP, with scripted engines that the evaluation's own sampling asks, and once by `trimtab eval` itself.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from trainers.evaluation.core import Answer, Comparison, Measure, Question
from trainers.evaluation.stats.compare import compare
from trainers.evaluation.stats.intervals import mean, paired_difference, rate

NORMAL = NormalDist()
WINS = {"wins": Measure("wins", "rate", "higher", "preferred to a reference")}
NO = "I'm sorry, but I can't help with that."
CHOICES = (("A", "one"), ("B", "two"), ("C", "three"), ("D", "four"))
CORRELATED = 0.6  # of the arms, through the question
MEASURED = ("over_refusal", "choice_first_letter", "wins", "completion_tokens", "total_s")


@dataclass(frozen=True)
class Truth:
    """What an arm does: one rate for refusals, right letters and wins, and the logs of its median length and time."""

    name: str
    rate: float
    log_tokens: float = 5.0
    log_seconds: float = 0.0

    def of(self, measure: str) -> float:
        means = {"completion_tokens": self.log_tokens + 0.5**2 / 2, "total_s": self.log_seconds + 0.9**2 / 2}
        return math.exp(means[measure]) if measure in means else self.rate


def questions(n: int) -> list[Question]:
    safe = [Question(f"safe{i}", (f"How do I kill process {i}?",), expect={"refuse": False}) for i in range(n)]
    exam = {"choices": CHOICES, "answer": "B"}
    return safe + [Question(f"exam{i}", (f"Which one is it, in {i}?",), expect=exam) for i in range(n)]


class Draws:
    """The chance of one repetition: what all arms share of a question, and what each answer has of its own."""

    def __init__(self, seed: object) -> None:
        self.rng = random.Random(repr(seed))
        self.shared: dict[tuple[str, str], float] = {}

    def normal(self, ident: str, what: str) -> float:
        if (ident, what) not in self.shared:
            self.shared[ident, what] = self.rng.gauss(0, 1)
        own = math.sqrt(1 - CORRELATED**2) * self.rng.gauss(0, 1)
        return CORRELATED * self.shared[ident, what] + own

    def yes(self, ident: str, what: str, share: float) -> bool:
        return self.normal(ident, what) < NORMAL.inv_cdf(share)


def said(arm: Truth, ident: str, draws: Draws) -> str:
    if ident.startswith("exam"):
        return "Answer: B" if draws.yes(ident, "right", arm.rate) else draws.rng.choice(("A", "(C)", "It is D."))
    return NO if draws.yes(ident, "refuses", arm.rate) else "Use the command kill."


def answers(arm: Truth, asked: Sequence[Question], samples: int, draws: Draws) -> list[Answer]:
    return [
        Answer(
            arm.name, question.id, sample, 0, texts=(said(arm, question.id, draws),), finish="stop",
            completion_tokens=round(math.exp(arm.log_tokens + 0.5 * draws.normal(question.id, "length"))),
            total_s=math.exp(arm.log_seconds + 0.9 * draws.normal(question.id, "time")),
        )
        for question in asked for sample in range(samples)
    ]  # fmt: skip


def wins(arm: Truth, asked: Sequence[Question], draws: Draws) -> dict[str, dict[str, float]]:
    """Of the first half of the questions; a fifth are ties, or fewer where the rate leaves no room."""
    tie = min(0.2, arm.rate, 1 - arm.rate)
    marks = [NORMAL.cdf(draws.normal(question.id, "wins")) for question in asked[: len(asked) // 2]]
    values = [1.0 if at < arm.rate - tie / 2 else 0.5 if at < arm.rate + tie / 2 else 0.0 for at in marks]
    return {question.id: {"wins": value} for question, value in zip(asked, values, strict=False)}


class Tally:
    """How often, over the repetitions of a case."""

    def __init__(self) -> None:
        self.hits: Counter[tuple[str, str]] = Counter()
        self.seen: Counter[tuple[str, str]] = Counter()

    def count(self, what: str, name: str, yes: bool) -> None:
        self.hits[what, name] += yes
        self.seen[what, name] += 1

    def share(self, what: str, name: str) -> float:
        return self.hits[what, name] / self.seen[what, name] if self.seen[what, name] else math.nan

    def add(self, found: Iterable[Comparison], arms: Mapping[str, Truth]) -> None:
        rows = list(found)
        self.count("any", "", any(one.significant for one in rows if one.arm == "same"))
        for one in rows:
            name = one.measure.name
            if one.arm == "same":
                self.count("p", name, one.p < 0.05)
                self.count("against", name, (one.p < 0.05) != one.excludes_zero)
                self.count("both", name, one.p < 0.05 and one.excludes_zero)
            if name in MEASURED:
                first, second = arms[one.baseline].of(name), arms[one.arm].of(name)
                self.count(one.arm, name, one.difference.low <= second - first <= one.difference.high)
                self.count("one arm", name, one.before.low <= first <= one.before.high)

    def show(self, case: str) -> None:
        for name in (name for name in MEASURED if self.seen["same", name]):
            cells = "".join(
                f"{self.share(what, name):>10.3f}" for what in ("one arm", "differs", "same", "p", "against", "both")
            )
            print(f"{case:<22}{name:<21}{cells}")
        print(f"{case:<22}{'any, after Holm':<21}{'':>50}{self.share('any', ''):>10.3f}", flush=True)


HEADS = ("one arm", "differs", "the same", "p < 0.05", "against", "both")
HEAD = f"{'case':<22}{'measure':<21}" + "".join(f"{head:>10}" for head in HEADS)


def trio(p: float) -> dict[str, Truth]:
    other = Truth("differs", p + 0.1 if p < 0.9 else p - 0.1, 5.2, 0.2)
    return {arm.name: arm for arm in (Truth("baseline", p), Truth("same", p), other)}


def simulated(repetitions: int, sizes: Sequence[int], rates: Sequence[float]) -> None:
    print(HEAD)
    tallies: list[Tally] = []
    cases = [(n, 1, p) for n in sizes for p in rates] + [(n, 4, p) for n in sizes[:2] for p in rates[1:3]]
    try:
        for n, k, p in cases:
            tally, asked, arms = Tally(), questions(n), trio(p)
            tallies.append(tally)
            for repetition in range(repetitions):
                draws = Draws((n, k, p, repetition))
                given = {name: answers(arm, asked, k, draws) for name, arm in arms.items()}
                extra = {name: wins(arm, asked, draws) for name, arm in arms.items()}
                tally.add(compare(asked, given, "baseline", extra, described=WINS, seed=repetition), arms)
            tally.show(f"n={n} k={k} rate={p:g}")
    except KeyboardInterrupt:
        done = tallies[-1].seen["any", ""]
        print(f"\nstopped after {len(tallies) - 1} of {len(cases)} cases and {done} repetitions of the next; of these:")
    if any(tally.seen["any", ""] for tally in tallies):
        summary([tally for tally in tallies if tally.seen["any", ""]])


def summary(tallies: Sequence[Tally]) -> None:
    for title, whats in (("one arm", ("one arm",)), ("differences", ("differs", "same"))):
        cells = [
            (tally, what, name) for tally in tallies for what in whats for name in MEASURED if tally.seen[what, name]
        ]
        shares = [tally.share(what, name) for tally, what, name in cells]
        inside = sum(0.93 <= share <= 0.97 for share in shares)
        print(
            f"{title}: coverage {sum(shares) / len(shares):.3f} on average; {inside} of {len(shares)} in 0.93–0.97,"
            f" {sum(share > 0.97 for share in shares)} above, {sum(share < 0.93 for share in shares)} below"
        )
    parts = []
    for what, text in (("p", "p < 0.05"), ("both", "both p and interval")):
        keys = [(tally, key) for tally in tallies for key in tally.seen if key[0] == what]
        total = sum(tally.seen[key] for tally, key in keys)
        parts.append(f"{text} in {sum(tally.hits[key] for tally, key in keys) / total:.4f}")
    any_of = sum(t.hits["any", ""] for t in tallies) / sum(t.seen["any", ""] for t in tallies)
    print(f"the same arm: {'; '.join(parts)} of {total} comparisons; at least one called different after Holm in "
          f"{any_of:.4f} of {sum(t.seen['any', ''] for t in tallies)} evaluations")  # fmt: skip


# ---------------------------------------------------------------- the methods by themselves

Ends = Callable[[NDArray[np.float64]], tuple[float, float]]


def percentile(values: NDArray[np.float64]) -> tuple[float, float]:
    drawn = np.random.default_rng(0).integers(0, len(values), (1999, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def bca(values: NDArray[np.float64]) -> tuple[float, float]:
    """Efron 1987; for the mean the acceleration is a sixth of the skewness of the sum."""
    if values.min() == values.max():
        return float(values[0]), float(values[0])
    drawn = np.random.default_rng(0).integers(0, len(values), (1999, len(values)))
    means, off = values[drawn].mean(axis=1), values - values.mean()
    below = ((means < values.mean()).mean() + (means <= values.mean()).mean()) / 2
    bias = NORMAL.inv_cdf(min(max(float(below), 1e-4), 1 - 1e-4))
    skew = float((off**3).sum() / (6 * (off**2).sum() ** 1.5))
    at = [NORMAL.cdf(bias + (bias + z) / (1 - skew * (bias + z))) for z in (-1.96, 1.96)]
    low, high = np.quantile(means, at)
    return float(low), float(high)


def exact_rate(n: int, p: float, ends: Ends) -> float:
    """The coverage of an interval for a rate: the chances of all outcomes whose interval holds p."""
    total = 0.0
    for yes in range(n + 1):
        chance = math.exp(math.lgamma(n + 1) - math.lgamma(yes + 1) - math.lgamma(n - yes + 1)
                          + yes * math.log(p) + (n - yes) * math.log1p(-p))  # fmt: skip
        if chance > 1e-7:
            low, high = ends(np.repeat((1.0, 0.0), (yes, n - yes)))
            total += chance * (low <= p <= high)
    return total


def exact_difference(n: int, gains: float, losses: float, ends: Ends) -> float:
    """The same of a paired difference: outcomes are how many pairs gain and how many lose."""
    total = 0.0
    for gained in range(n + 1):
        for lost in range(n + 1 - gained):
            rest = n - gained - lost
            chance = math.exp(math.lgamma(n + 1) - sum(math.lgamma(k + 1) for k in (gained, lost, rest))
                              + gained * math.log(gains) + lost * math.log(losses)
                              + rest * math.log(1 - gains - losses))  # fmt: skip
            if chance > 1e-5:
                low, high = ends(np.repeat((1.0, -1.0, 0.0), (gained, lost, rest)))
                total += chance * (low - 1e-12 <= gains - losses <= high + 1e-12)
    return total


def tango(change: NDArray[np.float64]) -> tuple[float, float]:
    found = paired_difference((change < 0).astype(float), (change > 0).astype(float))
    return found.low, found.high


def wilson(values: NDArray[np.float64]) -> tuple[float, float]:
    found = rate(values)
    return found.low, found.high


def studentised(values: NDArray[np.float64]) -> tuple[float, float]:
    found = mean(values)
    return found.low, found.high


def methods(repetitions: int) -> None:
    print(f"{'rate, exact':<40}{'Wilson':>9}{'percentile':>12}{'BCa':>8}")
    for n in (30, 100, 450):
        for p in (0.01, 0.05, 0.5, 0.95):
            cells = [exact_rate(n, p, ends) for ends in (wilson, percentile, bca)]
            print(f"n={n} rate={p:<33g}{cells[0]:>9.3f}{cells[1]:>12.3f}{cells[2]:>8.3f}", flush=True)
    print(f"\n{'paired difference of rates, exact':<40}{'Tango':>9}{'percentile':>12}{'BCa':>8}")
    for n, pairs in ((30, ((0.02, 0.02), (0.1, 0.02), (0.25, 0.25))), (100, ((0.02, 0.02), (0.1, 0.02), (0.15, 0.05)))):
        for gains, losses in pairs:
            cells = [exact_difference(n, gains, losses, ends) for ends in (tango, percentile, bca)]
            case = f"n={n} gained {gains:g}, lost {losses:g}"
            print(f"{case:<40}{cells[0]:>9.3f}{cells[1]:>12.3f}{cells[2]:>8.3f}", flush=True)
    print(f"\n{f'mean, {repetitions} repetitions':<40}{'bootstrap-t':>12}{'percentile':>12}{'BCa':>8}")
    rng = np.random.default_rng(1)

    def paired(n: int) -> NDArray[np.float64]:
        both = rng.normal(0, 0.8, n)
        return np.asarray(np.exp(both + rng.normal(0.3, 0.4, n)) - np.exp(both + rng.normal(0, 0.4, n)))

    sigma = math.hypot(0.8, 0.4)
    shapes: tuple[tuple[str, Callable[[int], NDArray[np.float64]], float], ...] = (
        ("log-normal, sigma 0.5", lambda n: rng.lognormal(0, 0.5, n), math.exp(0.125)),
        ("log-normal, sigma 0.9", lambda n: rng.lognormal(0, 0.9, n), math.exp(0.405)),
        ("difference of log-normals", paired, (math.exp(0.3) - 1) * math.exp(sigma**2 / 2)),
    )
    for name, draw, truth in shapes:
        for n in (30, 100, 450):
            hits = [0, 0, 0]
            for _ in range(repetitions):
                values = draw(n)
                for i, ends in enumerate((studentised, percentile, bca)):
                    low, high = ends(values)
                    hits[i] += low <= truth <= high
            shares = [hit / repetitions for hit in hits]
            print(f"{f'{name}, n={n}':<40}{shares[0]:>12.3f}{shares[1]:>12.3f}{shares[2]:>8.3f}", flush=True)


# ---------------------------------------------------------------- over HTTP


def served(repetitions: int, n: int, p: float) -> None:
    """Two engines that do the same and one that differs, on real sockets; what they say is drawn from the question's
    and the request's seed, so that arms are correlated as in the simulation."""
    from tests.trainers.evaluation.scripted_engine import ScriptedEngine
    from trainers.ask.journal import Journal
    from trainers.evaluation.arms.arm import read_arm
    from trainers.evaluation.arms.sampling import Manner, ask_arms, jobs, read_answer, write_answer

    arms, asked, tally = trio(p), questions(n), Tally()
    texts = {question.turns[0]: question.id for question in asked}

    def say(text: str, arm: str, seed: int) -> str:
        ident, draws = texts[text], Draws((text, arm, seed))
        what = "right" if ident.startswith("exam") else "refuses"
        draws.shared[ident, what] = random.Random(f"{text} {seed}").gauss(0, 1)  # what the arms have in common
        return said(arms[arm], ident, draws)

    started, requests = time.monotonic(), 0
    with ScriptedEngine(say, models=tuple(arms), pause_s=0.0) as engine, tempfile.TemporaryDirectory() as folder:
        reached = [read_arm(f"{name}={engine.url}#{name}", "") for name in arms]
        for repetition in range(repetitions):
            todo = jobs(reached, asked, 1, repetition)
            with Journal(Path(folder) / f"{repetition}.jsonl", read_answer, write_answer) as kept:
                told = ask_arms(reached, todo, kept, Manner(concurrency=8, letters=False), Bar())
            assert not told.stopped, told.stopped
            requests += len(todo)
            engine.clear()
            found = compare(asked, told.answers, "baseline", seed=repetition)
            tally.add((one for one in found if one.measure.name in MEASURED[:2]), arms)  # nobody set the times
        seconds = time.monotonic() - started
        print(f"{repetitions} evaluations over HTTP, {requests} requests, {seconds:.0f} s\n{HEAD}")
        tally.show(f"n={n} k=1 rate={p:g}")
        summary([tally])
        by_command(engine.url, asked, arms, Path(folder))


class Bar:
    """A progress bar that shows nothing."""

    def update(self, count: int = 1) -> None: ...

    def write(self, text: str) -> None: ...


def by_command(url: str, asked: Sequence[Question], arms: Mapping[str, Truth], folder: Path) -> None:
    """`trimtab eval` on the same engines; what its report says beside what is true."""
    from trainers.evaluation.entry import main as evaluate

    rows = [
        {"id": one.id, "prompt": one.turns[0], "expect": dict(one.expect)} for one in asked
    ]  # fmt: skip
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    named = [word for name in arms for word in ("--arm", f"{name}={url}#{name}")]
    status = evaluate([*named, "--prompts", str(prompts), "--out", str(folder / "run"), "--no-letters"])
    print(f"trimtab eval: status {status}")
    report = json.loads((folder / "run/report.json").read_text("utf-8"))
    for one in report["comparisons"]:
        if one["measure"]["name"] in MEASURED[:2]:
            low, high = one["difference"]["low"], one["difference"]["high"]
            truth = arms[one["arm"]].rate - arms["baseline"].rate
            print(
                f"  {one['arm']:<10}{one['measure']['name']:<21} truth {truth:+.2f}, interval [{low:+.3f}, {high:+.3f}]"
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--sizes", type=int, nargs="+", default=[30, 100, 300], metavar="N")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.01, 0.05, 0.5, 0.95], metavar="P")
    parser.add_argument("--methods", action="store_true", help="the intervals beside those that they replace")
    parser.add_argument("--served", action="store_true", help="over HTTP; 60 questions, unless --sizes says otherwise")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if args.methods:
        methods(args.repetitions)
    elif args.served:
        served(args.repetitions, args.sizes[0], args.rates[0])
    else:
        simulated(args.repetitions, args.sizes, args.rates)
    return 0


if __name__ == "__main__":
    sys.exit(main())
