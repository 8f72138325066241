"""An index's floor: the score below which what it finds is taken for noise, set from the index itself.

Ordinary questions that no rules are for show how well noise scores; words of the index's own passages, asked as
questions, show how well a right find does. The floor keeps out the noise of 98 ordinary questions in 100, but never
lies above a share of what a right find of the index typically scores: half of it where meaning is searched as well and
the collection is large, a sixth where words alone count or each of a few rules matters.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from retrieval.passage import Passage
from retrieval.search.index import Index
from retrieval.text.ordinary import questions

NOISE = 0.02  # the share of ordinary questions that may get a rule; people ask wilder ones
# Of the median score of right finds that a floor may reach. Measured on collections with people's questions: at half
# no right find of statutes by meaning is lost, by words alone a fifth (German); at a sixth one in a hundred.
SHARE, CAUTIOUS, EXCERPTS = 1 / 2, 1 / 6, 1 / 14  # the last where words are not spaced: questions are excerpts there
UNSPACED = frozenset({"zh", "ja", "ko", "th"})
SMALL = 1000  # passages of a collection in which every rule counts: short norms score as low as noise
SAMPLE = 150  # passages that are asked for
LENGTHS = (4, 6, 8)  # words of the questions made of a passage
DRIFT = 0.2  # how far the number of passages may move before a floor is set anew
SETTING = "floor"


@dataclass(frozen=True, slots=True)
class Floor:
    """A floor; the share of ordinary questions that still get a rule, and of the index's own finds that are lost."""

    floor: float
    noise: float
    loss: float
    passages: int  # when it was set


def calibrated(index: Index) -> Floor | None:
    """The floor that an index keeps; None where none was set."""
    stored = index.backend.setting(SETTING)
    return Floor(**json.loads(stored)) if stored else None


def calibrate(index: Index) -> Floor | None:
    """Set the floor of an index anew where it has none, or holds a fifth more or fewer passages than then.

    None for an index without passages.
    """
    count, known = index.count(), calibrated(index)
    if not count:
        return None
    if known is not None and abs(count - known.passages) <= DRIFT * known.passages:
        return known
    noise = sorted(_best(index, question) for question in questions(index.backend.languages()))
    right = sorted(_own(index))
    found = _floor(noise, right, count, _share(index, count))
    index.backend.set(SETTING, json.dumps(asdict(found)))
    return found


def _share(index: Index, count: int) -> float:
    if index.embedder is not None and index.weight < 1.0:
        return SHARE if count >= SMALL else CAUTIOUS
    return EXCERPTS if index.backend.languages() & UNSPACED else CAUTIOUS


def _floor(noise: Sequence[float], right: Sequence[float], count: int, share: float = CAUTIOUS) -> Floor:
    """Both lists rise."""
    above = noise[math.ceil((1 - NOISE) * len(noise)) - 1] + 1e-4 if noise else 0.0
    allowed = share * right[len(right) // 2] if right else 0.0
    floor = math.floor(min(above, allowed) * 1e4 + 1e-6) / 1e4
    passed = sum(score >= floor for score in noise) / max(1, len(noise))
    lost = sum(score < floor for score in right) / max(1, len(right))
    return Floor(floor, round(passed, 4), round(lost, 4), count)


def _best(index: Index, question: str) -> float:
    hits = index.search(question, 1)
    return hits[0].score if hits else 0.0


def _own(index: Index) -> Iterator[float]:
    """The score of each sampled passage for questions made from it, where it is among the first ten."""
    for passage in _sample(index.documents(), max(1, index.count() // SAMPLE)):
        for words in LENGTHS:
            question = _question(passage.text, words)
            if question:
                scores = [hit.score for hit in index.search(question, 10) if hit.document == passage.id]
                yield from scores[:1]


def _sample(passages: Iterable[Passage], step: int) -> Iterator[Passage]:
    yield from (passage for i, passage in enumerate(passages) if i % step == 0 and i // step < SAMPLE)


def _question(text: str, count: int) -> str:
    """So many of a passage's longer words, from its first part at even distances; or characters from its middle."""
    words = re.findall(r"[^\W\d_]{4,}", text)
    if len(words) < len(text) / 12:  # words are not spaced
        signs = re.sub(r"\W", "", text)
        return signs[len(signs) // 3 :][: 3 * count] if len(signs) >= 6 * count else ""
    words = words[:60]
    return " ".join(words[:: len(words) // count][:count]) if len(words) >= 2 * count else ""
