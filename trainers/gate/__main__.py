"""trimtab train gate --out FILE: train the model by which the rewrite gate judges what rules cannot check.

Reads the labelled rewrites in `rewrites/`, a file for each writer, embeds their changes and fits one hidden layer. The
threshold comes from leaving out each writer in turn and judging that one's rewrites; a table says how well it goes.
Writes float16 weights as safetensors. The same seed on the same machine gives the same bytes. Needs
trimtab[multilingual]; takes some minutes of one core. `python -m benchmarks.gate_additions` measures the result.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prompt_opt.gate.scorer import EMBEDDER, Array, Weights, rated
from trainers.gate.examples import Example, embedded, example, labelled
from trainers.gate.fit import Settings, fit

ACCEPTED = 0.08  # of the harmful rewrites of writers left out, at the threshold


def main(argv: list[str] | None = None) -> int:
    """The command's exit status."""
    parser = argparse.ArgumentParser(
        "trimtab train gate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the safetensors file to write")
    parser.add_argument("--seed", type=int, default=17)
    args = parser.parse_args(argv)
    from retrieval.embedding.embedder import load

    examples = [example(row) for row in labelled()]
    inputs, mean = embedded(examples, load(EMBEDDER, threads=1).queries)
    settings = Settings(seed=args.seed)
    scores = left_out(examples, inputs, mean, settings)
    threshold = threshold_of(examples, scores)
    report(examples, scores, threshold)
    judged = [e for e in examples if e.edit]
    weights = fit(inputs, [e.row.harmful for e in judged], mean, settings)
    save(dataclasses.replace(weights, threshold=threshold), args.out)
    digest = hashlib.sha256(args.out.read_bytes()).hexdigest()
    print(f"\n{args.out}: {args.out.stat().st_size} bytes, sha256 {digest}")
    return 0


def left_out(examples: Sequence[Example], inputs: Sequence[Array], mean: Array, settings: Settings) -> Array:
    """The score of each example by a model that learned from other writers alone; 1 where a rule vetoes."""
    scores = np.ones(len(examples), np.float32)
    judged = [i for i, e in enumerate(examples) if e.edit]
    for writer in dict.fromkeys(e.row.writer for e in examples):
        others = [(x, examples[i].row.harmful) for i, x in zip(judged, inputs, strict=True)
                  if examples[i].row.writer != writer]  # fmt: skip
        weights = fit([x for x, _ in others], [harmful for _, harmful in others], mean, settings)
        for i, x in zip(judged, inputs, strict=True):
            if examples[i].row.writer == writer:
                scores[i] = max(rated(x, weights))
    return scores


def threshold_of(examples: Sequence[Example], scores: Array) -> float:
    """The highest threshold at which no more than `ACCEPTED` of the harmful examples pass."""
    harmful = np.sort([score for e, score in zip(examples, scores, strict=True) if e.row.harmful])
    return float(np.nextafter(harmful[int(ACCEPTED * len(harmful))], np.float32(0)))


def report(examples: Sequence[Example], scores: Array, threshold: float) -> None:
    """Print what share of each writer's rewrites would be misjudged."""
    print(f"threshold {threshold:.3f}; each writer's rewrites, judged by a model of the others':\n")
    print(f"{'writer':<12}{'harmful accepted':>20}{'good rejected':>18}")
    for writer in [*dict.fromkeys(e.row.writer for e in examples), ""]:
        cells = []
        for harmful in (True, False):
            mine = [
                (score <= threshold) == harmful
                for e, score in zip(examples, scores, strict=True)
                if e.row.writer in (writer, writer or e.row.writer) and e.row.harmful == harmful
            ]
            cells.append(f"{sum(mine)}/{len(mine)} {sum(mine) / len(mine):.1%}")
        print(f"{writer or 'all':<12}{cells[0]:>20}{cells[1]:>18}")


def save(weights: Weights, path: Path) -> None:
    """Write the weights as safetensors, float16 but for the threshold."""
    from safetensors.numpy import save as serialize

    tensors = {
        name: np.atleast_1d(np.asarray(value)).astype(np.float32 if name == "threshold" else np.float16)
        for name, value in ((f.name, getattr(weights, f.name)) for f in dataclasses.fields(weights))
    }
    path.write_bytes(serialize({name: np.ascontiguousarray(value) for name, value in tensors.items()}))


if __name__ == "__main__":
    sys.exit(main())
