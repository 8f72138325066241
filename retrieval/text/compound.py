"""The parts of a compound, by the words of an index (Koehn and Knight, Empirical Methods for Compound Splitting, 2003).

The split whose parts are most frequent in the geometric mean wins, unless the whole word is more frequent still. A
first part may carry a joint: Verteilung-s-gericht.
"""

from __future__ import annotations

import math
from collections.abc import Callable

LEAST = 4  # letters of a part
KNOWN = 3  # passages that a part must be in: others are names and misprints
DEEP = 3  # parts of a word
JOINTS = ("", "s", "es", "n", "en", "er", "e", "ns", "ens")
Split = tuple[float, list[str]]


def parts(word: str, frequency: Callable[[str], int]) -> list[str]:
    """Two or three words that `word` is made of; none where it is not. `frequency` is of a word in the index."""
    mean, found = _split(word, frequency, DEEP)
    return found if found and mean > frequency(word) else []


def _split(word: str, frequency: Callable[[str], int], most: int) -> Split:
    best: Split = (0.0, [])
    for i in range(LEAST, len(word) - LEAST + 1):
        head, tail = word[:i], word[i:]
        rest = [tail] if frequency(tail) >= KNOWN else (_split(tail, frequency, most - 1)[1] if most > 2 else [])
        if rest and (first := _first(head, frequency)):
            found = [first, *rest]
            mean = math.exp(math.fsum(math.log(frequency(part)) for part in found) / len(found))
            best = max(best, (mean, found))
    return best


def _first(head: str, frequency: Callable[[str], int]) -> str:
    """The most frequent word that `head` may be without a joint, or ""."""
    bare = [head[: len(head) - len(joint)] for joint in JOINTS if head.endswith(joint)]
    known = [(frequency(word), word) for word in bare if len(word) >= LEAST]
    return max((pair for pair in known if pair[0] >= KNOWN), default=(0, ""))[1]
