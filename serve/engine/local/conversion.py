"""A model as ONNX, made once and kept in the cache folder (`TRIMTAB_CACHE`, or ~/.cache/trimtab).

The folder's name holds a checksum of what is converted, and the version of what is written, so that another model does
not meet an old conversion. A GGUF file is known by its size, begin, middle and end. A folder's files are read whole: of
two trainings of one model only a few tensors may differ. A conversion is written beside its place and renamed there
whole: one that is killed leaves nothing that a later start would take for finished.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from retrieval.embedding.folder import cache_folder
from serve.engine.local.source import Source
from serve.gguf import context_length

_VERSION = 1  # of serve.engine.local.graph: raise it where the graph or the weights change
_SAMPLE = 2**20


def opened(path: Path) -> Source:
    """The model in a GGUF file, or in a folder of transformers.

    Raises:
        GgufError, Unsupported: it cannot be read, or its tokenizer is of another kind; the message says which.
        OSError: the files cannot be read.
    """
    from serve.engine.local import folder, gguf_file

    return folder.read(path) if path.is_dir() else gguf_file.read(path)


def converted(source: Source, say: Callable[[str], None]) -> Path:
    """The ONNX model of a model's files, converted now unless it has been before.

    Args:
        say: is told what happens, a line at a time.

    Raises:
        Unsupported: the model is not of the kind that the graph computes.
        OSError: the files or the cache cannot be read or written.
    """
    place = cache_folder("gguf") / _key(source) / "model.onnx"
    if place.is_file():
        return place
    size = sum(file.stat().st_size for file in source.files)
    say(f"converting {source.path.name} ({size / 1e6:.0f} MB), once …")
    place.parent.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=place.parent.parent) as folder:
        made = Path(folder) / "made"
        made.mkdir()
        _convert(source, made / place.name, say)
        try:
            made.rename(place.parent)
        except OSError:
            if not place.is_file():  # unless another process was quicker
                raise
    say(f"kept in {place.parent}")
    return place


def _key(source: Source) -> str:
    digest = hashlib.sha256()
    for file in source.files:
        size = file.stat().st_size
        digest.update(str(size).encode())
        with file.open("rb") as opened:
            if source.path.is_dir():
                digest.update(hashlib.file_digest(opened, "sha256").digest())
                continue
            for place in (0, size // 2, max(0, size - _SAMPLE)):
                opened.seek(place)
                digest.update(opened.read(_SAMPLE))
    return f"{source.path.stem}-{digest.hexdigest()[:12]}-{_VERSION}"


def _convert(source: Source, out: Path, say: Callable[[str], None]) -> None:
    import onnx

    from serve.engine.local.graph import check, llama

    check(source.meta, frozenset(source.tensors))
    if shutil.disk_usage(out.parent).free < 2 * sum(map(math.prod, source.tensors.values())):
        raise OSError(f"no room for the converted model in {out.parent}")
    read = 0

    def weights(name: str) -> Any:
        nonlocal read
        value = source.weights(name)
        read += 1
        if read % 50 == 0:
            say(f"converting {source.path.name} … {min(99, 100 * read // len(source.tensors))}%")
        return value

    model = llama(source.meta, weights, context_length(source.meta) or 2048)
    onnx.save(model, out, save_as_external_data=True, location="weights.bin")
