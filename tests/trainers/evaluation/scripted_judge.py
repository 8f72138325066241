"""A judge on a real socket whose habits are known: what its verdicts come to can be said beforehand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from tests.trainers.scripted_critic import ScriptedCritic, parts


def chance(*of: str) -> float:
    """A number from 0 to 1 that is the same for the same texts, however the questions arrive."""
    return int.from_bytes(hashlib.sha256("\n".join(of).encode()).digest()[:8], "big") / 2**64


def habits(first: float = 0.0, longer: float = 0.0, seed: str = "") -> Callable[[str], str]:
    """What such a judge says: in a share `first` of its verdicts the first answer, in a share `longer` the longer one.

    In the rest the answer that begins with "Better." (a tie where both or neither do).
    """

    def say(question: str) -> str:
        asked, one, two = parts(question)[-3:]
        u = chance(seed, asked, one, two)
        if u < first:
            return marked("A")
        key: Callable[[str], int] = len if u < first + longer else lambda text: text.startswith("Better.")
        return marked("tie" if key(one) == key(two) else "A" if key(one) > key(two) else "B")

    return say


def marked(word: str) -> str:
    return f"One of them does what was asked.\n\n**[BETTER]** {word}"


def judging(say: Callable[[str], str]) -> ScriptedCritic:
    return ScriptedCritic(say)
