"""Ranked documents against judgements: nDCG and recall, and the files that BEIR keeps them in."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from retrieval.passage import Hit

Qrels = dict[str, dict[str, int]]
Run = Mapping[str, Sequence[tuple[str, float]]]  # query id: documents with scores, best first


def read_queries(path: Path) -> dict[str, str]:
    """Query id to text, from JSONL rows with `_id` and `text`.

    Raises:
        ValueError: a row is no such object; the message names file and line.
    """
    queries = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            fields = json.loads(line)
            queries[str(fields["_id"])] = str(fields["text"])
        except (ValueError, KeyError, TypeError):
            raise ValueError(f'{path}:{number}: not a query like {{"_id": "q1", "text": "…"}}') from None
    return queries


def read_qrels(path: Path) -> Qrels:
    """query-id, corpus-id, score, by tabs, with or without a header."""
    found: Qrels = defaultdict(dict)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        parts = line.split("\t")
        if number == 1 and parts[-1].strip() == "score":
            continue
        try:
            query, document, score = parts
            found[query][document] = int(float(score))
        except ValueError:
            raise ValueError(f"{path}:{number}: not query-id, corpus-id and score between tabs") from None
    return {query: rated for query, rated in found.items() if any(v > 0 for v in rated.values())}


def documents(search: Callable[[int], Sequence[Hit]], k: int) -> list[tuple[str, float]]:
    """k documents, each at its best chunk's score, of a search for so many passages."""
    wanted = k
    while True:
        hits = search(wanted)
        best: dict[str, float] = {}
        for hit in hits:
            best.setdefault(hit.document, hit.score)
        if len(best) >= k or len(hits) < wanted:
            return list(best.items())[:k]
        wanted *= 2


def write_run(path: Path, run: Run) -> None:
    """Write query-id, corpus-id and score, separated by tabs, under a header."""
    lines = [f"{query}\t{document}\t{score:.6f}" for query, ranked in run.items() for document, score in ranked]
    path.write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n", encoding="utf-8")


def ndcg(ranked: Sequence[str], rated: Mapping[str, int], k: int = 10) -> float:
    """Gain is the rating itself, discount log2(rank + 1), as in BEIR."""
    gained = sum(rated.get(document, 0) / math.log2(i + 2) for i, document in enumerate(ranked[:k]))
    best = sorted((v for v in rated.values() if v > 0), reverse=True)[:k]
    return gained / sum(v / math.log2(i + 2) for i, v in enumerate(best))


def recall(ranked: Sequence[str], rated: Mapping[str, int], k: int) -> float:
    """The share of the relevant documents that are among the first k."""
    relevant = {document for document, v in rated.items() if v > 0}
    return len(relevant & set(ranked[:k])) / len(relevant)


def score(run: Run, qrels: Qrels) -> dict[str, float]:
    """Means over the judged queries; one that is not in the run scores nothing."""
    ranked = {query: [document for document, _ in run.get(query, ())] for query in qrels}
    measures = {
        "ndcg@10": [ndcg(ranked[q], qrels[q]) for q in qrels],
        "recall@10": [recall(ranked[q], qrels[q], 10) for q in qrels],
        "recall@100": [recall(ranked[q], qrels[q], 100) for q in qrels],
    }
    return {name: sum(values) / max(1, len(values)) for name, values in measures.items()}
