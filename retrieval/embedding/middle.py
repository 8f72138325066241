"""Token vectors from the middle of an embedder: what each word means where it stands.

The last layers gather a text into one vector; those in the middle still tell its words apart, at a part of the cost.
The graph is that of the export with weights in blocks (see `runners`) up to a layer, cut once and kept beside it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.embedding import runners
from retrieval.embedding.embedder import TOKENS, find, weights_hash

Vectors = npt.NDArray[np.float32]
# Each graph's name in the ids of weights that were learned from its vectors.
_NAMES = {"blocks": "queries in form 4", "documents": "documents in form 4"}


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """A text's tokens: their vectors, shape (tokens, dimension), and where each stands in it, in characters."""

    vectors: Vectors
    spans: tuple[tuple[int, int], ...]


class Middle:
    """The layers of a model up to one of them. `id` names what decides the vectors."""

    def __init__(self, name: str, layer: int, *, most: int) -> None:
        """`most` is the number of tokens after which a text is cut off.

        Raises:
            ValueError: no such model, or it does not run on ONNX Runtime here.
        """
        from tokenizers import Tokenizer

        folder = find(name)
        weights = weights_hash(folder)
        exports = runners.exported(folder, weights, 1)
        if "documents" not in exports:
            raise ValueError(f"{name} does not run on ONNX Runtime here, so there are no token vectors of it")
        whole = exports.get("blocks", exports["documents"])
        self.id = f"{name}@{weights}, layer {layer} of {_NAMES[whole.stem]}"
        self._runner = runners.OnnxRunner(_cut(whole, layer), 1)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        config = folder / "config_sentence_transformers.json"
        prompts = json.loads(config.read_text()).get("prompts") if config.is_file() else {}
        self._prompt, self._most = str((prompts or {}).get("query") or ""), most

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        """The tokens of each text, without the model's own."""
        encoded = [self._tokenizer.encode(self._prompt + text[: 16 * self._most]) for text in texts]
        found: dict[int, Tokens] = {}
        batch: list[int] = []
        for i in sorted(range(len(texts)), key=lambda i: len(encoded[i].ids)):
            if batch and (len(batch) + 1) * min(len(encoded[i].ids), self._most) > TOKENS:
                found |= self._run(batch, encoded)
                batch = []
            batch.append(i)
        if batch:
            found |= self._run(batch, encoded)
        return [found[i] for i in range(len(texts))]

    def _run(self, batch: Sequence[int], encoded: Sequence[Any]) -> dict[int, Tokens]:
        rows = [list(encoded[i].ids)[: self._most] for i in batch]
        width = max(map(len, rows))
        ids = np.array([row + [0] * (width - len(row)) for row in rows], np.int64)
        mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in rows], np.int64)
        out, skip = {}, len(self._prompt)
        for i, vectors in zip(batch, self._runner(ids, mask), strict=True):
            spans = [(a - skip, b - skip) for a, b in encoded[i].offsets[: self._most]]
            own = [at for at, (a, b) in enumerate(spans) if 0 <= a < b]
            out[i] = Tokens(vectors[own], tuple(spans[at] for at in own))
        return out


def _cut(whole: Path, layer: int) -> Path:
    """The file of a model's graph up to the end of a layer, made now if it is not there."""
    part = whole.with_name(f"{whole.stem}-{layer}.onnx")
    if part.is_file() and part.stat().st_mtime >= whole.stat().st_mtime:
        return part
    import onnx
    from onnx.utils import Extractor

    model = onnx.load(whole)
    norms = [node.output[0] for node in model.graph.node if node.op_type == "LayerNormalization"]
    last = norms[2 * layer]  # one after the embeddings, two in each layer
    model.graph.output.append(onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None))
    cut = Extractor(model).extract_model([entry.name for entry in model.graph.input], [last])
    with tempfile.TemporaryDirectory(dir=whole.parent) as scratch:
        made = Path(scratch, part.name)
        onnx.save(cut, made)
        os.replace(made, part)
    return part
