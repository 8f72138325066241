"""The ways to run an embedder: torch, an ONNX export that was shown to give the same vectors, and quicker ones.

The quicker ones are for queries, with weights in 8 bits: products of integers (see `products`), or else blocks with a
scale each, which are widened as they are read. Either is kept only where its vectors are near enough to those of
sentence-transformers to find the same passages.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.embedding import products, tables
from retrieval.embedding.folder import cache_folder
from retrieval.text import ordinary

log = logging.getLogger(__name__)
FORM = 7  # of what the cache holds; another number means: export anew
OPSET = 23  # the first in which attention is one node
SAME = 0.999  # the least cosine, over every sample, at which an export for documents is kept …
NEAR = 0.995  # … one of blocks, for queries …
# … and one of integers, for queries. Measured with MiniLM alone (.9936) on two sets: nDCG@10 is .3510 in 32 bits and
# .3533 in integers on one, .3326 and .3304 on the other (docs/decisions/2026-11-29.md).
NEAR_IN_INTEGERS = 0.993
MEASURED = 10  # ordinary texts of each language by which a graph's channels are measured
# Exports with weights in blocks, the quickest first: weights with one scale, and the share of the layers, the last
# ones, that stay in 32 bits, since what is rounded there reaches the vector unmended.
FORMS = ((64, 0.0), (16, 1 / 3))
SAMPLES = (
    "yes",
    "thanks",
    "yooooooooo",
    "That makes a lot of sense, thank you.",
    "What is the penalty for the disclosure of trade secrets to a foreign economic entity?",
    "Toute personne a droit à la liberté d'opinion et d'expression.",
    "Die Würde des Menschen ist unantastbar.",
    "用人单位自用工之日起超过一个月不满一年未与劳动者订立书面劳动合同的，应当向劳动者每月支付二倍的工资。",
    "Everyone is entitled to all the rights and freedoms set forth in this Declaration, without distinction of any "
    "kind, such as race, colour, sex, language, religion, political or other opinion. " * 4,
)


class TorchRunner:
    """sentence-transformers itself; safetensors only, no code from the model's folder."""

    name = "torch"
    alone = False

    def __init__(self, folder: Path, threads: int) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(threads)
        self._torch = torch
        self.model = SentenceTransformer(
            str(folder), device="cpu", trust_remote_code=False, model_kwargs={"use_safetensors": True}
        ).eval()

    def __call__(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Unit vectors, shape (rows, dimension), of `ids` and `mask`, both (rows, tokens)."""
        torch = self._torch
        with torch.inference_mode():
            features = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
            vectors = self.model(features)["sentence_embedding"]
            unit: npt.NDArray[np.float32] = torch.nn.functional.normalize(vectors, dim=-1).float().numpy()
        return unit


class OnnxRunner:
    """An exported graph from ids and mask to unit vectors."""

    name = "onnx"

    def __init__(self, path: Path, threads: int) -> None:
        self.path, self._threads = path, threads
        self.alone = path.stem == "queries"  # products of integers round all texts of a batch by one scale

    @cached_property
    def _session(self) -> Any:
        """Opened at its first use: a server embeds queries only."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other searches want the cores
        return onnxruntime.InferenceSession(
            str(self.path), options, providers=["CPUExecutionProvider"],
            disabled_optimizers=["SkipLayerNormFusion"],  # fused it goes number by number: a tenth of all time
        )  # fmt: skip

    def __call__(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Unit vectors, shape (rows, dimension), of `ids` and `mask`, both (rows, tokens)."""
        vectors: npt.NDArray[np.float32] = self._session.run(None, {"ids": ids, "mask": mask})[0]
        return vectors


def open_exports(folder: Path, weights: str, threads: int) -> tuple[OnnxRunner, OnnxRunner] | None:
    """The cached exports of these weights, for documents and for queries, made now if there are none.

    None where an export would give other vectors; both are the same one where only the quicker would.
    """
    kept = exported(folder, weights, threads)
    if "documents" not in kept:
        return None
    quicker = next((kept[name] for name in ("queries", "blocks") if name in kept), None)
    runner = OnnxRunner(kept["documents"], threads)
    return runner, OnnxRunner(quicker, 1) if quicker else runner


def exported(folder: Path, weights: str, threads: int) -> dict[str, Path]:
    """The exports that were found good, by name (documents, queries, blocks), made now if there are none."""
    try:
        import onnxruntime
    except ImportError:
        return {}
    place = cache_folder("onnx") / f"{weights}-{onnxruntime.__version__}-{FORM}"
    kept = _verified(place)
    if kept is None:
        _export(folder, place, threads)
        kept = _verified(place) or {}
    return {name: place / f"{name}.onnx" for name in kept}


def _verified(place: Path) -> dict[str, str] | None:
    """Name and checksum of each export that was found good; None where there is no such note, or a file is not it."""
    try:
        found = dict(json.loads((place / "verified.json").read_text())["good"])
        whole = all(_hash(place / f"{name}.onnx") == sha256 for name, sha256 in found.items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if whole else None


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _export(folder: Path, place: Path, threads: int) -> None:
    """Export, compare, keep what is the same. A failure of the exporter means torch, with the reason in the log."""
    place.mkdir(parents=True, exist_ok=True)
    reference = TorchRunner(folder, threads)
    good, cosines = dict[str, str](), dict[str, float]()

    def kept(made: Path, least: float) -> bool:
        cosines[made.stem] = _least_cosine(reference, OnnxRunner(made, threads), folder)
        if cosines[made.stem] >= least:
            good[made.stem] = _hash(made)
            os.replace(made, place / made.name)
        return made.stem in good

    with tempfile.TemporaryDirectory(dir=place) as scratch:
        documents, queries, blocks = (Path(scratch, f"{name}.onnx") for name in ("documents", "queries", "blocks"))
        try:
            _to_onnx(reference, documents)
            if kept(documents, SAME):
                for block, spared in FORMS:
                    _to_blocks(place / documents.name, blocks, block, spared)
                    if kept(blocks, NEAR):
                        break
                _to_integers(folder, place / documents.name, queries)
                kept(queries, NEAR_IN_INTEGERS)
        except Exception as error:  # noqa: BLE001 - an exporter fails in as many ways as there are models
            runs = "blocks" if "blocks" in good else "documents"
            what = f"its queries run on the export {runs!r}" if good else "it stays on torch"
            log.warning("%s: an export to ONNX failed, so %s (%s)", folder, what, error)
            if not good:
                return
        note = Path(scratch, "verified.json")
        note.write_text(json.dumps({"good": good, "cosines": cosines}))
        os.replace(note, place / note.name)
    log.info("%s exported to ONNX, least cosines to torch %s", folder, cosines)


def _to_onnx(reference: TorchRunner, path: Path) -> None:
    import torch

    class Unit(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, mask: Any) -> Any:
            out = self.model({"input_ids": ids, "attention_mask": mask})["sentence_embedding"]
            return torch.nn.functional.normalize(out, dim=-1)

    ids = torch.ones(2, 16, dtype=torch.int64)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Unit(reference.model), (ids, torch.ones_like(ids)), path, dynamo=True, opset_version=OPSET,
            verbose=False,
            input_names=["ids", "mask"], output_names=["vectors"], external_data=False,
            dynamic_shapes={"ids": axes, "mask": axes},
        )  # fmt: skip
    _shrink(path, tables.halve)


def _shrink(path: Path, shrink: Callable[[Any], None]) -> None:
    import onnx

    model = onnx.load(path)
    shrink(model)
    onnx.save(model, path)


def _to_integers(folder: Path, source: Path, path: Path) -> None:
    texts = [*ordinary.several(MEASURED), *SAMPLES]
    config = json.loads((folder / "config.json").read_text())
    heads = 0 if "num_key_value_heads" in config else int(config.get("num_attention_heads") or 0)
    products.to_integers(source, path, [encoding.ids for encoding in _tokenizer(folder).encode_batch(texts)], heads)
    _shrink(path, tables.quarter)


def _to_blocks(source: Path, path: Path, block: int, spared: float) -> None:
    """Weight-only: each block of a product's weights is rounded by itself, and activations per block as they come."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    model = onnx.load(source)
    weights = {tensor.name for tensor in model.graph.initializer}
    products = [node.name for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    quantizer = MatMulNBitsQuantizer(
        model, nodes_to_exclude=products[round(len(products) * (1 - spared)) :],
        algo_config=DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=False, accuracy_level=4, bits=8),
    )  # fmt: skip
    chatty = logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer")
    chatty.disabled = True  # it tells of every node that is no product
    try:
        quantizer.process()
    finally:
        chatty.disabled = False
    quantizer.model.save_model_to_file(str(path))
    _shrink(path, tables.quarter)


def _least_cosine(reference: TorchRunner, exported: OnnxRunner, folder: Path) -> float:
    """Over single texts, and over one padded batch where the export takes one."""
    rows = [encoding.ids for encoding in _tokenizer(folder).encode_batch(list(SAMPLES))]
    batches = [[row] for row in rows] + ([] if exported.alone else [rows])
    least = 1.0
    for batch in batches:
        width = max(map(len, batch))
        ids = np.array([row + [0] * (width - len(row)) for row in batch], np.int64)
        mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in batch], np.int64)
        least = min(least, float((reference(ids, mask) * exported(ids, mask)).sum(axis=1).min()))
    return least


def _tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
