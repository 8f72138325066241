"""Files to passages. The table of formats: a suffix, the reader of its bytes, and the extra that it needs.

A row that is no passage is reported with its file and line, and reading goes on. Ids come from the file's path
relative to its source and from the structure inside: `hr/leave.md:3.2`, `act.txt:Article-6-bis`.
"""

from __future__ import annotations

import io
import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from retrieval.extra import install
from retrieval.text.encoding import decode
from retrieval.text.piece import Piece, Unreadable
from retrieval.text.readers.rows import bytes_wrong
from retrieval.text.row import Defaults, Row, row
from retrieval.text.walk import walk

EXTRA = f"this format needs the extra 'documents': {install('documents')}"


@dataclass(frozen=True, slots=True)
class Format:
    """A format's name, its suffixes and its reader as "module:function" of `retrieval.text.readers`."""

    name: str
    suffixes: tuple[str, ...]
    reader: str

    def read(self, stream: IO[bytes], name: str) -> Iterator[Piece]:
        """The pieces of a file. The reader is imported here, since most bring a library.

        Raises:
            Unreadable: the file has no text or is not what its name says.
            ImportError: the format's library is not installed.
        """
        module, _, function = self.reader.partition(":")
        reader: Callable[[IO[bytes], str], Iterator[Piece]]
        reader = getattr(import_module(f"retrieval.text.readers.{module}"), function)
        return reader(stream, name)


FORMATS = (
    Format("JSONL", (".jsonl", ".ndjson"), "rows:read_jsonl"),
    Format("JSON", (".json",), "rows:read_json"),
    Format("YAML", (".yaml", ".yml"), "rows:read_yaml"),
    Format("CSV", (".csv", ".tsv"), "table:read"),
    Format("Markdown", (".md", ".markdown"), "markdown:read"),
    Format("text", (".txt", ".text"), "plain:read"),
    Format("PDF", (".pdf",), "pdf:read"),
    Format("Word", (".docx", ".docm"), "word:read"),
    Format("OpenDocument", (".odt",), "opendocument:read"),
    Format("HTML", (".html", ".htm", ".xhtml"), "html:read"),
    Format("Excel", (".xlsx", ".xlsm"), "spreadsheet:read"),
    Format("reStructuredText", (".rst",), "rst:read"),
    Format("RTF", (".rtf",), "rtf:read"),
    Format("legal XML", (".xml", ".akn"), "lawxml:read"),
)
SUFFIXES = tuple(suffix for row in FORMATS for suffix in row.suffixes)
_UNNAMEABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_BY_SUFFIX = {suffix: row for row in FORMATS for suffix in row.suffixes}


@dataclass(frozen=True, slots=True)
class Listing:
    """A source's files: those to be read, the folder that ids count from, and those that are not read, with reasons.

    What `failed` (a folder that cannot be opened, a broken link) may hold rules; `unread` files have no known format.
    """

    root: Path
    files: tuple[Path, ...]
    unread: tuple[tuple[Path, str], ...] = ()
    failed: tuple[tuple[Path, str], ...] = ()


def listing(path: Path) -> Listing:
    """What a file or a folder holds: BEIR's corpus.jsonl alone, or every file of a known format.

    Hidden files and folders are not looked at.

    A file that ends in `.list` names files and folders, one a line.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: it is a file of an unknown format, or a folder without one of a known format.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such input: {path}")
    if path.is_file() and path.suffix == ".list":
        return _listed(path)
    if path.is_file():
        if kind(path) not in _BY_SUFFIX:
            raise ValueError(
                f"{path}: unknown kind of file; use {', '.join(SUFFIXES)} (also as .zst) or a folder of these"
            )
        return Listing(path.parent, (path,))
    found, unread, failed = walk(path)
    for name in ("corpus.jsonl", "corpus.jsonl.zst"):
        if path / name in found:
            others = [(p, f"not part of the corpus in {name}") for p in found if p != path / name]
            return Listing(path, (path / name,), (*others, *unread), failed)
    read = tuple(p for p in found if kind(p) in _BY_SUFFIX and not p.name.startswith("~$"))
    if not read:
        for place, reason in failed:
            raise ValueError(f"{place}: {reason}")
        raise ValueError(f"{path} holds no file that can be read; use {', '.join(SUFFIXES)}")
    others = [(p, _why_unread(p)) for p in found if p not in set(read)]
    return Listing(path, read, (*others, *unread), failed)


def _listed(path: Path) -> Listing:
    """What the lines of a list name, relative to its folder; ids count from the folder that holds all of it."""
    names = [line.strip() for line in decode(path.read_bytes()).splitlines()]
    found = [listing(path.parent / name) for name in names if name and not name.startswith("#")]
    if not found:
        raise ValueError(f"{path} names no file")
    root = Path(os.path.commonpath([part.root.resolve() for part in found]))
    read = tuple(dict.fromkeys(file.resolve() for part in found for file in part.files))
    unread = tuple(pair for part in found for pair in part.unread)
    return Listing(root, read, unread, tuple(pair for part in found for pair in part.failed))


def files(path: Path) -> list[Path]:
    """The files of a source that are read; see `listing` for what it raises."""
    return list(listing(path).files)


def kind(path: Path) -> str:
    """The suffix by which a file's format is known, in lower case, without .zst."""
    name = path.with_suffix("") if path.suffix.lower() == ".zst" else path
    return name.suffix.lower()


def relative(path: Path, root: Path) -> str:
    """A file's name in ids: composed letters; line breaks and bytes that are no UTF-8 become %0A."""
    name = unicodedata.normalize("NFC", path.relative_to(root).as_posix())
    return _UNNAMEABLE.sub(lambda found: "".join(f"%{byte:02X}" for byte in os.fsencode(found[0])), name)


def read(
    path: Path, defaults: Defaults, advance: Callable[[int], None] | None = None, root: Path | None = None
) -> Iterator[Row]:
    """Rows of one file, whose ids count from `root` (its own folder unless told).

    `advance` hears of bytes read on disk, as they are. A file that cannot be read is a row with the problem.
    """
    name = relative(path, root or path.parent)
    count = 0
    try:
        with path.open("rb") as raw:
            done = 0
            for piece in _BY_SUFFIX[kind(path)].read(_stream(path, raw), name):
                count += 1
                yield _row(path, name, piece, defaults)
                if advance and raw.tell() > done:
                    advance(raw.tell() - done)
                    done = raw.tell()
    except Unreadable as error:
        count += 1
        yield Row(str(path), None, str(error))
    except ImportError as error:
        count += 1
        yield Row(str(path), None, f"{EXTRA} ({error})")
    except OSError as error:
        count += 1
        yield Row(str(path), None, f"cannot be read: {error.strerror or error}")
    except Exception as error:  # noqa: BLE001 - libraries fail in many ways; one file must not end the others' reading
        count += 1
        yield Row(str(path), None, f"cannot be read: {type(error).__name__}: {error}")
    if not count:
        yield Row(str(path), None, "no text")


def _row(path: Path, name: str, piece: Piece, defaults: Defaults) -> Row:
    place = f"{path}:{piece.line}"
    if piece.problem or piece.note:
        return Row(place, None, piece.problem, note=piece.note, name=name, sheet=piece.sheet)
    fields = dict(piece.fields)
    if piece.key is not None:
        fields["id"] = f"{name}:{piece.key}" if piece.key else name
        fields.pop("_id", None)
        fields["source"] = defaults.source or fields.get("source") or name.rpartition("/")[2]
        text = str(fields.get("text", ""))
        if bytes_wrong(text):
            lines = text.splitlines()
            place = f"{path}:{piece.line + next((i for i, part in enumerate(lines) if bytes_wrong(part)), 0)}"
    made = row(place, fields, defaults)
    return replace(made, file=name if piece.key is not None else "", name=name, sheet=piece.sheet)


def _stream(path: Path, raw: IO[bytes]) -> IO[bytes]:
    return io.BufferedReader(_Decompressed(raw)) if path.suffix.lower() == ".zst" else raw


class _Decompressed(io.RawIOBase):
    """The bytes inside a .zst; damage is an OSError, as for any file."""

    def __init__(self, raw: IO[bytes]) -> None:
        import zstandard

        self._reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
        self._error = zstandard.ZstdError

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._reader.read(len(buffer))
        except self._error as error:
            raise OSError(f"not zstd: {error}") from None
        buffer[: len(data)] = data
        return len(data)


def _why_unread(path: Path) -> str:
    if path.name.startswith("~$"):
        return "a lock file of Microsoft Office"
    return f"no reader for {kind(path) or 'files without a suffix'}"
