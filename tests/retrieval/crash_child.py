"""Adds rules to an index and acknowledges each on standard output, until it is done or killed.

python crash_child.py FOLDER COUNT SEED EMBEDDER(none|words)
"""

import random
import sys

from retrieval_toys import Words

from retrieval.passage import Passage
from retrieval.search.index import Index

NOUNS = [
    "dog",
    "cat",
    "park",
    "court",
    "tenant",
    "employer",
    "contract",
    "licence",
    "vehicle",
    "permit",
    "school",
    "river",
    "forest",
    "ship",
    "bank",
    "tax",
]
VERBS = ["must", "may", "shall", "cannot", "should"]


def rule(i: int) -> Passage:
    chance = random.Random(i)
    text = " ".join(chance.choice(NOUNS) + " " + chance.choice(VERBS) for _ in range(chance.randint(3, 12)))
    return Passage(
        f"rule-{i:05}", f"{text} number {i}", title=f"Rule {i}", region=chance.choice(["", "north", "south"])
    )


def main(folder: str, count: int, seed: int, embedder: str) -> None:
    index = Index.open(folder, create=True, embedder=Words() if embedder == "words" else embedder)
    chance, i = random.Random(seed), 0
    while i < count:
        size = min(count - i, chance.choice([1, 1, 1, 5, 40]))
        index.add(rule(j) for j in range(i, i + size))
        i += size
        print(i, flush=True)
        if chance.random() < 0.02:
            index.refresh()  # so that the caches, too, are sometimes in the middle of a change
            index.backend.compact(always=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
