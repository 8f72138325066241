"""RLP's synthetic preferences: confident answers by agreement among samples (Lang et al. 2024, arXiv:2403.19279)."""

import string
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from trainers.rounds.group import Choice, Group, Scored

_DROPPED = str.maketrans("", "", string.punctuation)


def agreed(group: Group, choice: Choice, draw: Random) -> list[dict[str, Any]]:
    """One pair where at least `agreement` of the samples mean the same.

    Chosen is the highest score of that largest cluster, rejected the lowest outside of it. `same` says of two texts
    whether they mean the same; without one, texts that differ in case, punctuation and blanks only do.
    """
    if not group.samples:
        return []
    found = clusters(group.samples, choice.same or same_text)
    largest = max(found, key=len)
    others = [scored for cluster in found if cluster is not largest for scored in cluster]
    if not others or len(largest) < choice.agreement * len(group.samples):
        return []
    high, low = max(largest, key=lambda scored: scored.score), min(others, key=lambda scored: scored.score)
    return [{"prompt": group.prompt, "chosen": group.answer(high.text), "rejected": group.answer(low.text)}]


def clusters(samples: Sequence[Scored], same: Callable[[str, str], bool]) -> list[list[Scored]]:
    """The samples in groups, each joining the first whose first text means the same in both directions."""
    found: list[list[Scored]] = []
    for scored in samples:
        for cluster in found:
            if same(cluster[0].text, scored.text) and same(scored.text, cluster[0].text):
                cluster.append(scored)
                break
        else:
            found.append([scored])
    return found


def same_text(one: str, other: str) -> bool:
    """Whether two texts are the same but for case, punctuation and blanks."""
    return plain(one) == plain(other)


def plain(text: str) -> list[str]:
    """The words of a text, in lower case and without punctuation."""
    return text.casefold().translate(_DROPPED).split()
