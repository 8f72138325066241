"""A GGUF file as an ONNX model, made once and kept in the cache folder (`TRIMTAB_CACHE`, or ~/.cache/trimtab).

The folder's name holds a checksum of the file's size, begin, middle and end, and the version of what is written, so
that another file does not meet an old conversion. It is written beside its place and renamed there whole: a conversion
that is killed leaves nothing that a later start would take for finished.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.embedding.folder import cache_folder
from serve.gguf import Tensor, context_length, metadata, tensors

_VERSION = 1  # of serve.engine.local.graph: raise it where the graph or the weights change
_SAMPLE = 2**20


def converted(file: Path, say: Callable[[str], None]) -> Path:
    """The ONNX model of a GGUF file, converted now unless it has been before.

    Args:
        say: is told what happens, a line at a time.

    Raises:
        Unsupported: the model is not of the kind that the graph computes.
        GgufError, OSError: the file or the cache cannot be read or written.
    """
    place = cache_folder("gguf") / _key(file) / "model.onnx"
    if place.is_file():
        return place
    say(f"converting {file.name} ({file.stat().st_size / 1e6:.0f} MB), once …")
    place.parent.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=place.parent.parent) as folder:
        made = Path(folder) / "made"
        made.mkdir()
        _convert(file, made / place.name, say)
        try:
            made.rename(place.parent)
        except OSError:
            if not place.is_file():  # unless another process was quicker
                raise
    say(f"kept in {place.parent}")
    return place


def _key(file: Path) -> str:
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as opened:
        for place in (0, size // 2, max(0, size - _SAMPLE)):
            opened.seek(place)
            digest.update(opened.read(_SAMPLE))
    return f"{file.stem}-{digest.hexdigest()[:12]}-{_VERSION}"


def floats(data: np.ndarray[Any, Any], tensor: Tensor) -> np.ndarray[Any, Any]:
    """A tensor as float32, (outputs, inputs) or (size,)."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize, quant_shape_to_byte_shape

    kind = GGMLQuantizationType(tensor.type)
    block, size = GGML_QUANT_SIZES[kind]
    raw = data[tensor.offset : tensor.offset + math.prod(tensor.shape) // block * size]
    shape = tensor.shape[::-1]
    plain = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}.get(kind)
    if plain is not None:
        return raw.view(plain).reshape(shape).astype(np.float32, copy=False)
    return dequantize(raw.reshape(quant_shape_to_byte_shape(shape, kind)), kind).astype(np.float32, copy=False)


def _convert(file: Path, out: Path, say: Callable[[str], None]) -> None:
    import onnx

    from serve.engine.local.graph import check, llama

    meta, parts = metadata(file), {tensor.name: tensor for tensor in tensors(file)}
    check(meta, frozenset(parts))
    if shutil.disk_usage(out.parent).free < 2 * sum(math.prod(tensor.shape) for tensor in parts.values()):
        raise OSError(f"no room for the converted model in {out.parent}")
    data, read = np.memmap(file, np.uint8, "r"), 0

    def weights(name: str) -> Any:
        nonlocal read
        tensor = parts[name]
        read += 1
        if read % 50 == 0:
            say(f"converting {file.name} … {min(99, 100 * read // len(parts))}%")
        return floats(data, tensor)

    model = llama(meta, weights, context_length(meta) or 2048)
    onnx.save(model, out, save_as_external_data=True, location="weights.bin")
