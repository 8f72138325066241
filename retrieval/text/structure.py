"""Long texts, cut where they are jointed: heading, article, paragraph, numbered point, line, sentence, clause, word.

Nothing is dropped but white space at a cut. A chunk never exceeds the limit, which is counted by the caller
(an embedder's tokens, or characters where there is none).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

from retrieval.passage import Passage

Count = Callable[[str], int]

_CJK_NUMBER = "〇零一二三四五六七八九十百千0-9０-９"
# Coarsest first. Each pattern matches the empty string at a joint.
_JOINTS = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"^(?=#{1,6} )",
        rf"^(?=[ \t]*(?:(?:Article|Art\.|Artikel|Section|Chapter|§) *\w|第[{_CJK_NUMBER}]+[编章节条]))",
        r"(?<=\n)(?=[ \t]*\n)",
        rf"^(?=[ \t]*(?:[(（]\w{{1,4}}[)）]|\d{{1,3}}[.)]|[{_CJK_NUMBER}]+、|[-*•] ))",
        r"(?<=\n)",
        r"(?<=[.!?;][ \n])|(?<=[。！？；])",
        r"(?<=[,:][ \n])|(?<=[，、：])",
        r"(?<=\s)",
    )
)


ARTICLES = 2  # the levels at which each piece is a rule of its own, and is not put together with its neighbours


def chunk(text: str, count: Count, limit: int) -> list[str]:
    """Pieces of at most `limit`, near equal in size."""
    if limit < 1:
        raise ValueError("a chunk must hold at least 1 token")
    return _cut(text.strip(), count, limit, 0)


def chunk_passage(passage: Passage, count: Count, limit: int) -> list[Passage]:
    """The passage itself if it fits, or chunks named `id#1`, `id#2`… that carry its title and labels.

    `limit` is for title and text together. A title of over half the limit is shortened, and the whole of it
    then opens the first chunk's text.
    """
    if count(passage.search_text) <= limit:
        return [passage]
    title, text = passage.title, passage.text
    if count(title) > limit // 2:
        text = f"{title}\n{text}"
        title = chunk(title, count, max(1, limit // 2 - 1))[0] + "…" if limit > 3 else ""
    room = limit - count(f"{title}\n") if title else limit
    while True:
        pieces = chunk(text, count, room)
        chunks = [
            replace(passage, id=f"{passage.id}#{i}", title=title, text=piece, parent=passage.id)
            for i, piece in enumerate(pieces, 1)
        ]
        if room <= 1 or all(count(c.search_text) <= limit for c in chunks):
            return chunks
        room -= 1  # this tokenizer makes more of title and text together than of each alone


def _cut(text: str, count: Count, limit: int, level: int) -> list[str]:
    size = count(text)
    if size <= limit:
        return [text] if text.strip() else []
    pieces = _split(text, level)
    if len(pieces) == 1:
        if level < len(_JOINTS):
            return _cut(text, count, limit, level + 1)
        if len(text) == 1:
            raise ValueError(f"one character takes {size} tokens, more than the limit of {limit}")
    goal = size / math.ceil(size / limit)
    packs = pieces if level < ARTICLES else _pack(pieces, count, limit, goal)
    chunks: list[str] = []
    for packed in packs:
        chunks += _cut(packed.strip(), count, limit, level + 1)
    return chunks


def _split(text: str, level: int) -> list[str]:
    if level >= len(_JOINTS):
        half = max(1, len(text) // 2)
        return [text[:half], text[half:]] if len(text) > 1 else [text]
    return [piece for piece in _JOINTS[level].split(text) if piece]


def _pack(pieces: list[str], count: Count, limit: int, goal: float) -> list[str]:
    """Neighbours put together while they fit; a piece too big for itself stands alone, to be cut finer."""
    packed: list[str] = []
    current, filled = "", 0
    for piece in pieces:
        size = count(piece)
        if current and (filled + size > limit or filled >= goal):
            packed.append(current)
            current, filled = "", 0
        current, filled = current + piece, filled + size
    return [*packed, current] if current else packed
