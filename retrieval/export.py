"""The two ways to run an embedder: torch, or an ONNX export that was shown to give the same vectors."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

log = logging.getLogger(__name__)
SAME = 0.999  # the least cosine, over every sample, at which an export is kept
SAMPLES = (
    "yes",
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

    def __init__(self, folder: Path, threads: int) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(threads)
        self._torch = torch
        self.model = SentenceTransformer(
            str(folder), device="cpu", trust_remote_code=False, model_kwargs={"use_safetensors": True}
        ).eval()

    def __call__(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
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
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other searches want the cores
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        vectors: npt.NDArray[np.float32] = self._session.run(None, {"ids": ids, "mask": mask})[0]
        return vectors


def open_export(folder: Path, weights: str, threads: int) -> OnnxRunner | None:
    """The cached export of these weights, made now if there is none; None where it would give other vectors."""
    try:
        import onnxruntime
    except ImportError:
        return None
    place = cache_folder() / f"{weights}-{onnxruntime.__version__}"
    graph, note = place / "model.onnx", place / "verified.json"
    verified = _verified(note)
    if verified is None or (verified["same"] and not _intact(graph, verified["sha256"])):
        verified = _export(folder, place, threads)
    return OnnxRunner(graph, threads) if verified and verified["same"] else None


def cache_folder() -> Path:
    chosen = os.environ.get("TRIMTAB_CACHE")
    base = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trimtab"
    return base / "onnx"


def _verified(note: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(note.read_text())
        return {"same": bool(found["same"]), "sha256": str(found["sha256"]), "cosine": float(found["cosine"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _intact(graph: Path, sha256: str) -> bool:
    try:
        return hashlib.sha256(graph.read_bytes()).hexdigest() == sha256
    except OSError:
        return False


def _export(folder: Path, place: Path, threads: int) -> dict[str, Any] | None:
    """Export, compare, keep. Any failure of the exporter means torch, with the reason in the log."""
    place.mkdir(parents=True, exist_ok=True)
    reference = TorchRunner(folder, threads)
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        made = Path(scratch) / "model.onnx"
        try:
            _to_onnx(reference, made)
            cosine = _least_cosine(reference, OnnxRunner(made, threads), folder)
        except Exception as error:  # noqa: BLE001 - an exporter fails in as many ways as there are models
            log.warning("%s stays on torch: its export to ONNX failed (%s)", folder, error)
            return None
        found = {"same": cosine >= SAME, "cosine": cosine, "sha256": hashlib.sha256(made.read_bytes()).hexdigest()}
        if found["same"]:
            os.replace(made, place / "model.onnx")
        (Path(scratch) / "verified.json").write_text(json.dumps(found))
        os.replace(Path(scratch) / "verified.json", place / "verified.json")
    log.info("%s exported to ONNX, least cosine to torch %.6f", folder, cosine)
    return found


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
            Unit(reference.model), (ids, torch.ones_like(ids)), path, dynamo=True, verbose=False,
            input_names=["ids", "mask"], output_names=["vectors"], external_data=False,
            dynamic_shapes={"ids": axes, "mask": axes},
        )  # fmt: skip


def _least_cosine(reference: TorchRunner, exported: OnnxRunner, folder: Path) -> float:
    """Over single texts and over one padded batch."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    rows = [encoding.ids for encoding in tokenizer.encode_batch(list(SAMPLES))]
    batches = [[row] for row in rows] + [rows]
    least = 1.0
    for batch in batches:
        width = max(map(len, batch))
        ids = np.array([row + [0] * (width - len(row)) for row in batch], np.int64)
        mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in batch], np.int64)
        least = min(least, float((reference(ids, mask) * exported(ids, mask)).sum(axis=1).min()))
    return least
