"""What a GGUF file says of its model before the weights: architecture, context, vocabulary, chat template.

Standard library only: a proxy reads it at start to escape special tokens, and needs no weights for that. The format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import importlib.metadata
import mmap
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_CONTROL = 3  # the type of a token that stands for no text
PACKAGE = "package:"


class GgufError(ValueError):
    """The file is not a GGUF file that can be read; the message says why."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor's bytes are: `shape` as GGUF has it, the innermost dimension first; `type` is ggml's number."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int  # in the file


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 4

    def scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self.data, self.at)
        self.at += struct.calcsize(f"<{code}")
        return value

    def text(self) -> str:
        size = self.scalar("Q")
        if size > len(self.data) - self.at:
            raise GgufError("the file ends inside its metadata")
        self.at += size
        return self.data[self.at - size : self.at].decode("utf-8", "replace")

    def tensor(self) -> Tensor:
        name, dimensions = self.text(), self.scalar("I")
        shape = tuple(self.scalar("Q") for _ in range(dimensions))
        return Tensor(name, shape, self.scalar("I"), self.scalar("Q"))

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner, size = self.scalar("I"), self.scalar("Q")
            if inner in _SCALARS:
                code = f"<{size}{_SCALARS[inner]}"
                values = list(struct.unpack_from(code, self.data, self.at))
                self.at += struct.calcsize(code)
                return values
            return [self.value(inner) for _ in range(size)]
        if kind not in _SCALARS:
            raise GgufError(f"its metadata has a value of the unknown type {kind}")
        return self.scalar(_SCALARS[kind])


def metadata(file: Path) -> Mapping[str, Any]:
    """The metadata of a GGUF file (versions 2 and 3, little-endian), by key.

    Raises:
        GgufError: it is no such file, or it is cut off.
        OSError: it cannot be opened.
    """
    return _head(file)[0]


def tensors(file: Path) -> tuple[Tensor, ...]:
    """The tensors of a GGUF file, in its order. Raises as `metadata`."""
    return _head(file)[1]


@lru_cache(4)
def _head(file: Path) -> tuple[Mapping[str, Any], tuple[Tensor, ...]]:
    """What stands before the weights.

    Raises:
        GgufError: it is no such file, or it is cut off.
        OSError: it cannot be opened.
    """
    with file.open("rb") as opened:
        if opened.read(4) != b"GGUF":
            raise GgufError(f"{file.name} is not a GGUF file")
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = _Reader(data)
            try:
                if (version := reader.scalar("I")) not in (2, 3):
                    raise GgufError(f"{file.name} is GGUF version {version}; 2 and 3 can be read")
                count, pairs = reader.scalar("Q"), reader.scalar("Q")
                meta = {reader.text(): reader.value(reader.scalar("I")) for _ in range(pairs)}
                found = [reader.tensor() for _ in range(count)]
            except struct.error:
                raise GgufError(f"{file.name} ends inside its metadata") from None
            align = int(meta.get("general.alignment", 32))
            begin = -(-reader.at // align) * align
            return meta, tuple(replace(tensor, offset=begin + tensor.offset) for tensor in found)


def located(model: str) -> Path | None:
    """The GGUF file that a model names: its path, or `package:NAME` for the one in an installed distribution.

    None where it names something else, or where there is no such file.
    """
    if model.startswith(PACKAGE):
        return _packaged(model.removeprefix(PACKAGE))
    path = Path(model).expanduser()
    return path.absolute() if path.suffix == ".gguf" and path.is_file() else None


def context_length(meta: Mapping[str, Any]) -> int | None:
    """Tokens that the model was made for."""
    value = meta.get(f"{meta.get('general.architecture')}.context_length")
    return value if isinstance(value, int) else None


def special_tokens(meta: Mapping[str, Any]) -> frozenset[str]:
    """The strings that stand for control tokens: a template's marks, the end of a text."""
    tokens, kinds = meta.get("tokenizer.ggml.tokens", ()), meta.get("tokenizer.ggml.token_type", ())
    return frozenset(token for token, kind in zip(tokens, kinds, strict=False) if kind == _CONTROL)


def _packaged(name: str) -> Path | None:
    """Looked up by the distribution's list of files, without importing anything of it."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        return None
    try:
        files = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = sorted(str(file.locate()) for file in files if file.suffix == ".gguf")
    return Path(found[0]) if len(found) == 1 and Path(found[0]).is_file() else None
