"""The search: the best instruction, then the best example to add, as long as one helps. Pure but for `score`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from prompt_opt.core import Profile
from trainers.evaluation.search.pool import Pool

Score = Callable[[Profile], float]


@dataclass(frozen=True, slots=True)
class Step:
    """What was tried in one round: every candidate with its score, and the best of them."""

    name: str  # "instruction", "example 1" …
    tried: tuple[tuple[Profile, float], ...]
    best: Profile
    score: float
    taken: bool  # whether it is better than what there was before


def search(start: Profile, pool: Pool, most: int, score: Score) -> Iterator[Step]:
    """The rounds, in order; the profile found is the last `best` that was `taken`, or `start`.

    `start` gives the markers, the framing and the decoding; its own instruction and exemplars only compete where the
    pool holds them. A round in which nothing helps is the last. At most `most` exemplars, each once; a new one stands
    nearest to the question.
    """
    bare = replace(start, exemplars=())
    best, reached = bare, float("-inf")
    step = _best("instruction", [replace(bare, instruction=text) for text in pool.instructions], reached, score)
    best, reached = step.best, step.score
    yield step
    for number in range(1, most + 1):
        left = [each for each in pool.exemplars if each not in best.exemplars]
        if not left:
            return
        candidates = [replace(best, exemplars=(*best.exemplars, each)) for each in left]
        step = _best(f"example {number}", candidates, reached, score)
        yield step
        if not step.taken:
            return
        best, reached = step.best, step.score


def _best(name: str, candidates: list[Profile], reached: float, score: Score) -> Step:
    """The first of those that score highest."""
    tried = tuple((candidate, score(candidate)) for candidate in candidates)
    best, value = max(tried, key=lambda pair: pair[1])
    return Step(name, tried, best, value, value > reached)
