"""Files to passages: JSONL, CSV, Markdown, plain text, a BEIR folder, or any folder of these; each also as .zst.

A row that is no passage is reported with its file and line, and reading goes on.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from retrieval.passage import Passage

SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".md", ".markdown", ".txt")
LABELS = ("title", "source", "url", "region", "language", "kind", "in_force_from", "in_force_to")
_ARTICLE = re.compile(
    r"^[ \t]*((?:Article|Art\.|Artikel|Artículo|Articolo|Section|§+) *\d+\w*"
    r"|第[〇零一二三四五六七八九十百千\d]+条)[ \t.:：]*",
    re.MULTILINE,
)
_HEADING = re.compile(r"^(#{1,6})[ \t]+(.*?)[ \t]*#*$")
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
csv.field_size_limit(2**30)


@dataclass(frozen=True, slots=True)
class Row:
    """A passage, or why there is none. `place` is file:line."""

    place: str
    passage: Passage | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Defaults:
    """Labels for rows that have none of their own."""

    region: str = ""
    language: str = ""
    kind: str = ""
    source: str = ""
    tags: tuple[str, ...] = ()


def files(path: Path) -> list[Path]:
    """What a folder holds: BEIR's corpus.jsonl alone, or every file of a known kind."""
    if not path.exists():
        raise FileNotFoundError(f"no such input: {path}")
    if path.is_file():
        if kind(path) not in SUFFIXES:
            raise ValueError(
                f"{path}: unknown kind of file; use {', '.join(SUFFIXES)} (also as .zst) or a folder of these"
            )
        return [path]
    for name in ("corpus.jsonl", "corpus.jsonl.zst"):
        if (path / name).is_file():
            return [path / name]
    found = sorted(p for p in path.rglob("*") if p.is_file() and kind(p) in SUFFIXES)
    if not found:
        raise ValueError(f"{path} holds no file that can be read; use {', '.join(SUFFIXES)}")
    return found


def kind(path: Path) -> str:
    """The suffix by which a file's format is known, in lower case, without .zst."""
    name = path.with_suffix("") if path.suffix == ".zst" else path
    return name.suffix.lower()


def read(path: Path, defaults: Defaults, advance: Callable[[int], None] | None = None) -> Iterator[Row]:
    """Rows of one file. `advance` hears of bytes read on disk, as they are."""
    readers = {".csv": _csv, ".tsv": _csv, ".md": _markdown, ".markdown": _markdown, ".txt": _plain}
    with path.open("rb") as raw:
        done = 0
        for row in readers.get(kind(path), _jsonl)(path, _lines(path, raw), defaults):
            yield row
            if advance and raw.tell() > done:
                advance(raw.tell() - done)
                done = raw.tell()


def _lines(path: Path, raw: IO[bytes]) -> Iterator[str]:
    """Bytes that are not UTF-8 become lone surrogates, which no passage accepts: so each is found with its line."""
    stream: Any = raw
    if path.suffix == ".zst":
        import zstandard

        stream = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True))
    for i, line in enumerate(stream):
        text = line.decode("utf-8", errors="surrogateescape")
        yield text.removeprefix("\ufeff") if i == 0 else text


def _jsonl(path: Path, lines: Iterator[str], defaults: Defaults) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        place = f"{path}:{number}"
        if not line.strip():
            yield Row(place, None, "empty row")
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Row(place, None, _bytes_wrong(line) or f"not JSON: {error}")
            continue
        if not isinstance(fields, dict):
            yield Row(place, None, f"not a JSON object but {type(fields).__name__}")
            continue
        yield row(place, fields, defaults)


def _csv(path: Path, lines: Iterator[str], defaults: Defaults) -> Iterator[Row]:
    reader = csv.DictReader(lines, delimiter="\t" if kind(path) == ".tsv" else ",", strict=True)
    if "text" not in (reader.fieldnames or []):
        yield Row(f"{path}:1", None, f"no column 'text' in {', '.join(map(str, reader.fieldnames or ['nothing']))}")
        return
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(f"{path}:{start}", None, f"not CSV: {error}")
            continue
        if None in fields:
            yield Row(f"{path}:{start}", None, "more fields than the header has columns")
            continue
        yield row(f"{path}:{start}", {k: v for k, v in fields.items() if v is not None}, defaults)


def _markdown(path: Path, lines: Iterator[str], defaults: Defaults) -> Iterator[Row]:
    """One passage a section, titled by the headings above it; a # inside a code fence is no heading."""
    heads: list[tuple[int, str]] = []
    body: list[str] = []
    start, fence, count = 1, "", 0
    for number, line in enumerate([*lines, "\0end"], 1):
        mark = _FENCE.match(line)
        if mark and (not fence or (mark[1].startswith(fence) and not line.strip().strip(fence[0]))):
            fence = "" if fence else mark[1]
        heading = None if fence else _HEADING.match(line.rstrip())
        if heading or line == "\0end":
            if "".join(body).strip():
                count += 1
                title = " › ".join(text for _, text in heads)
                yield _section(path, start, _fields(f"{_stem(path)}-{count}", title, "".join(body)), defaults)
            body, start = [], number + 1
        if heading:
            heads = [(level, text) for level, text in heads if level < len(heading[1])]
            heads.append((len(heading[1]), heading[2]))
        else:
            body.append(line)


def _plain(path: Path, lines: Iterator[str], defaults: Defaults) -> Iterator[Row]:
    """One passage an article where the text counts its articles, else one for the file."""
    text = "".join(lines)
    marks = list(_ARTICLE.finditer(text))
    if len(marks) < 2:
        yield _section(path, 1, _fields(_stem(path), "", text), defaults)
        return
    name = next((line.strip() for line in text.splitlines() if line.strip()), "")[:120]
    if text[: marks[0].start()].strip():
        yield _section(path, 1, _fields(f"{_stem(path)}-0", name, text[: marks[0].start()]), defaults)
    for i, mark in enumerate(marks, 1):
        end = marks[i].start() if i < len(marks) else len(text)
        number = text.count("\n", 0, mark.start()) + 1
        title = f"{name}, {mark[1].strip()}" if marks[0].start() else mark[1].strip()
        yield _section(path, number, _fields(f"{_stem(path)}-{i}", title, text[mark.end() : end]), defaults)


def _section(path: Path, line: int, fields: dict[str, Any], defaults: Defaults) -> Row:
    text = fields["text"]
    if _bytes_wrong(text):
        line += next(i for i, part in enumerate(text.splitlines()) if _bytes_wrong(part))
    tidy = str.strip if kind(path) == ".txt" else str.rstrip
    fields["text"] = "\n".join(tidy(part) for part in text.strip().splitlines())
    return row(f"{path}:{line}", {**fields, "source": defaults.source or path.name}, defaults)


def _fields(key: str, title: str, text: str) -> dict[str, Any]:
    return {"id": key, "title": title, "text": text}


def row(place: str, fields: dict[str, Any], defaults: Defaults) -> Row:
    """A passage from a JSON object or a CSV record; fields that we have no name for are left out."""
    metadata = fields.get("metadata")
    fields = {**(metadata if isinstance(metadata, dict) else {}), **fields}
    try:
        labels = {name: _text(fields, name) or getattr(defaults, name, "") for name in LABELS}
        text, tags = _text(fields, "text").strip(), _tags(fields.get("tags")) or defaults.tags
        key = _text(fields, "_id") or _text(fields, "id")
        passage = Passage(id=key or "unnamed", text=text, tags=tags, parent=_text(fields, "parent"), **labels)
    except ValueError as error:
        return Row(place, None, _bytes_wrong(*map(str, fields.values())) or str(error))
    if not key:
        passage = replace(passage, id=f"sha-{passage.content_hash.hex()}")
    return Row(place, passage)


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{name} must be text, not {type(value).__name__}")
    return str(value)


def _tags(value: Any) -> tuple[str, ...]:
    if not value:
        return ()
    if isinstance(value, str):
        return tuple(tag.strip() for tag in value.split(",") if tag.strip())
    if isinstance(value, list) and all(isinstance(tag, str) for tag in value):
        return tuple(value)
    raise ValueError("tags must be a list of texts, or one text with commas")


def _bytes_wrong(*texts: str) -> str:
    for text in texts:
        found = re.search("[\udc80-\udcff]", text)
        if found:
            return f"not UTF-8: byte 0x{ord(found[0]) - 0xDC00:02x} at character {found.start() + 1}"
    return ""


def _stem(path: Path) -> str:
    return path.name.split(".", 1)[0] or path.name
