"""trimtab train gate --out FILE: train the model by which the rewrite gate judges what rules cannot check.

Reads the labelled rewrites in `rewrites/`, a file for each writer, embeds their words and fits one hidden layer. The
thresholds come from leaving out each writer in turn and judging that one's rewrites; a table says how well it goes.
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
from tqdm import tqdm

from prompt_opt.gate.scorer import EMBEDDER, LAYER, MODES, MOST, Array, Weights, rated
from trainers.gate.examples import Example, embedded, example, hints, labelled
from trainers.gate.fit import Settings, fit

ACCEPTED = 0.08  # of the harmful rewrites of writers left out, at the threshold
# Writers who mixed all manners, as a rewriter does. The others kept to one (long lists of wishes, pairs that only the
# harm tells apart …): the model learns from them, but they do not set the threshold.
MIXED = frozenset({"a", "b", "c", "d", "e", "j", "k", "everyday"})


def main(argv: list[str] | None = None) -> int:
    """The command's exit status."""
    parser = argparse.ArgumentParser(
        "trimtab train gate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the safetensors file to write")
    parser.add_argument("--seed", type=int, default=17)
    args = parser.parse_args(argv)
    from retrieval.embedding.middle import Middle

    rows = labelled()
    examples = [example(row) for row in [*rows, *hints(rows)]]
    embed = Middle(EMBEDDER, LAYER, most=MOST)
    inputs, center = embedded(examples, embed)
    settings = Settings(seed=args.seed)
    scores = left_out(examples, inputs, center, settings)
    thresholds = thresholds_of(examples, scores)
    report(examples, scores, thresholds)
    judged = [e for e in examples if e.edit]
    weights = fit(inputs, [e.row.harmful for e in judged], center, embed.id, settings)
    save(dataclasses.replace(weights, thresholds=thresholds), args.out)
    digest = hashlib.sha256(args.out.read_bytes()).hexdigest()
    print(f"\n{args.out}: {args.out.stat().st_size} bytes, sha256 {digest}")
    return 0


def left_out(examples: Sequence[Example], inputs: Array, center: Array, settings: Settings) -> Array:
    """The score of each example by a model that learned from other writers alone; 1 where a rule vetoes."""
    scores = np.ones(len(examples), np.float32)
    judged = np.array([i for i, e in enumerate(examples) if e.edit])
    writers = np.array([examples[i].row.writer for i in judged])
    harmful = np.array([examples[i].row.harmful for i in judged])
    for writer in tqdm(dict.fromkeys(writers), desc="leaving a writer out", disable=None):
        others = writers != writer
        weights = fit(inputs[others], harmful[others], center, "", settings)
        scores[judged[~others]] = [rated(x, weights) for x in inputs[~others]]
    return scores


def thresholds_of(examples: Sequence[Example], scores: Array) -> Array:
    """For each mode the highest threshold at which no more than `ACCEPTED` of the harmful examples pass.

    Of whole rewrites those of `MIXED` count; hints are too few to choose among.
    """
    found = []
    for mode in MODES:
        pairs = zip(examples, scores, strict=True)
        counted = (
            score for e, score in pairs
            if e.row.harmful and e.row.mode == mode and (mode == "complement" or e.row.writer in MIXED)
        )  # fmt: skip
        harmful = np.sort(list(counted))
        found.append(np.nextafter(np.float32(harmful[int(ACCEPTED * len(harmful))]), np.float32(0)))
    return np.array(found, np.float32)


def report(examples: Sequence[Example], scores: Array, thresholds: Array) -> None:
    """Print what share of each writer's rewrites would be misjudged."""
    for mode, threshold in zip(MODES, thresholds, strict=True):
        mine = [(e, score) for e, score in zip(examples, scores, strict=True) if e.row.mode == mode]
        print(f"\n{mode}, threshold {threshold:.3f}; each writer's rewrites, judged by a model of the others':\n")
        print(f"{'writer':<12}{'harmful accepted':>20}{'good rejected':>18}")
        for writer in [*dict.fromkeys(e.row.writer for e, _ in mine), ""]:
            cells = []
            for harmful in (True, False):
                own = [(score <= threshold) == harmful for e, score in mine
                       if e.row.writer in (writer, writer or e.row.writer) and e.row.harmful == harmful]  # fmt: skip
                cells.append(f"{sum(own)}/{len(own)} {sum(own) / max(1, len(own)):.1%}")
            print(f"{writer or 'all':<12}{cells[0]:>20}{cells[1]:>18}")


def save(weights: Weights, path: Path) -> None:
    """Write the weights as safetensors: float16, but float32 where precision is cheap."""
    from safetensors.numpy import save as serialize

    exact = ("mean", "scale", "thresholds")
    tensors = {
        name: np.ascontiguousarray(np.atleast_1d(value).astype(np.float32 if name in exact else np.float16))
        for name, value in ((f.name, getattr(weights, f.name)) for f in dataclasses.fields(weights))
        if name != "embedder"
    }
    path.write_bytes(serialize(tensors, metadata={"embedder": weights.embedder}))


if __name__ == "__main__":
    sys.exit(main())
