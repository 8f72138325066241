"""trimtab train gate --out FILE: train the model by which the rewrite gate judges additions.

Makes the edits, embeds their spans, fits one hidden layer and writes float16 weights as safetensors. The same seed on
the same machine gives the same bytes. Needs trimtab[multilingual]; takes a few minutes of one core, most of it for
embedding. `python -m benchmarks.gate_additions` measures the result.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from prompt_opt.gate.additions import Change, changes
from prompt_opt.gate.scorer import EMBEDDER, Array, Embed, Weights, features
from trainers.gate.edits import Edit, edits
from trainers.gate.fit import Settings, fit

_BATCH = 64
THRESHOLD = 0.7  # chosen on the dev half of tests/data/gate/additions


def main(argv: list[str] | None = None) -> int:
    """The command's exit status."""
    parser = argparse.ArgumentParser(
        "trimtab train gate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the safetensors file to write")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help="reject a change with a higher score")
    args = parser.parse_args(argv)
    from retrieval.embedding.embedder import load

    weights = train(edits(args.seed), load(EMBEDDER, threads=1).queries, Settings(seed=args.seed))
    save(dataclasses.replace(weights, threshold=args.threshold), args.out)
    digest = hashlib.sha256(args.out.read_bytes()).hexdigest()
    print(f"{args.out}: {args.out.stat().st_size} bytes, sha256 {digest}")
    return 0


def train(made: Sequence[Edit], embed: Embed, settings: Settings) -> Weights:
    """Weights from labelled edits."""
    labels = _labels(made)
    found = tuple(labels)
    texts = sorted({text for c in found for text in (c.added, c.removed) if text}, key=lambda text: (len(text), text))
    vectors: dict[str, Array] = {}
    for start in tqdm(range(0, len(texts), _BATCH), desc="embedding", disable=None):
        batch = texts[start : start + _BATCH]
        vectors |= zip(batch, embed(batch), strict=True)
    means = [
        np.mean([vectors[span] for c in found if (span := getattr(c, side))], axis=0).astype(np.float16)
        for side in ("added", "removed")
    ]
    added, removed = (mean.astype(np.float32) for mean in means)
    inputs = features(found, lambda some: np.stack([vectors[text] for text in some]), added, removed)
    harmful = np.array([edit.harmful for edit in labels.values()], np.float32)
    return fit(inputs, harmful, _often(labels), added, removed, settings)


def _labels(made: Sequence[Edit]) -> dict[Change, Edit]:
    """Each change and the first edit that makes it; without those that harmful and good edits make."""
    edits: dict[Change, list[Edit]] = {}
    for edit in made:
        for change in changes(edit.prompt, edit.rewrite, edit.mode):
            edits.setdefault(change, []).append(edit)
    return {change: some[0] for change, some in edits.items() if len({edit.harmful for edit in some}) == 1}


def _often(labels: Mapping[Change, Edit]) -> Array:
    """How often to draw each change: kinds that have few come oftener than their share, by the root of their number."""
    sizes = Counter((edit.kind, edit.harmful) for edit in labels.values())
    return np.array([sizes[edit.kind, edit.harmful] ** -0.5 for edit in labels.values()])


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
