"""A GGUF file as an ONNX model, made once and kept in the cache folder (`TRIMTAB_CACHE`, or ~/.cache/trimtab).

The folder's name holds the checksum of the file's begin and its size and time, and the version of what is written, so
that another file never meets an old conversion. It is written beside its place and renamed there whole: a conversion
that is killed leaves nothing that a later start would take for finished.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serve.gguf import metadata

_VERSION = 1  # of serve.engine.local.graph: raise it where the graph or the weights change
_BEGIN = 2**20


def converted(file: Path, say: Callable[[str], None]) -> Path:
    """The ONNX model of a GGUF file, converted now unless it has been before.

    Args:
        say: is told what happens, a line at a time.

    Raises:
        Unsupported: the model is not of the kind that the graph computes.
        GgufError, OSError: the file or the cache cannot be read or written.
    """
    place = _cache() / _key(file) / "model.onnx"
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


def _cache() -> Path:
    chosen = os.environ.get("TRIMTAB_CACHE")
    base = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trimtab"
    return base / "gguf"


def _key(file: Path) -> str:
    known = file.stat()
    with file.open("rb") as opened:
        begin = opened.read(_BEGIN)
    digest = hashlib.sha256(begin + f"{known.st_size} {known.st_mtime_ns}".encode()).hexdigest()
    return f"{file.stem}-{digest[:12]}-{_VERSION}"


def _convert(file: Path, out: Path, say: Callable[[str], None]) -> None:
    import onnx
    from gguf import GGUFReader
    from gguf.quants import dequantize

    from serve.engine.local.graph import check, llama
    from serve.gguf import context_length

    meta = metadata(file)
    check(meta)
    tensors = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    check(meta, frozenset(tensors))
    read = 0

    def weights(name: str) -> Any:
        nonlocal read
        tensor = tensors[name]
        read += 1
        if read % 50 == 0:
            say(f"converting {file.name} … {min(99, 100 * read // len(tensors))}%")
        return dequantize(tensor.data, tensor.tensor_type).astype("float32", copy=False)

    model = llama(meta, weights, context_length(meta) or 2048)
    if shutil.disk_usage(out.parent).free < 2 * sum(tensor.n_elements for tensor in tensors.values()):
        raise OSError(f"no room for the converted model in {out.parent}")
    onnx.save(model, out, save_as_external_data=True, location="weights.bin")
