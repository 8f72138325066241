"""A stream of events with some of them edited: cut into events, whatever pieces it comes in."""

from __future__ import annotations

import re

import msgspec

from serve.dialects.annotation import Editor
from serve.dialects.sse import data_lines
from serve.dialects.wire import NOT_JSON

_BOUNDARY = re.compile(rb"\n\r?\n")
_EVENT = 2**24  # bytes of one event; a longer one passes as it comes


class EditedStream:
    """Gives the events of a stream to an editor. What it leaves as it is keeps its bytes."""

    def __init__(self, editor: Editor) -> None:
        self._editor = editor
        self._held = b""  # an event that is not complete

    def feed(self, chunk: bytes) -> bytes:
        """What of this piece of the stream the client gets now."""
        text, at, out = self._held + chunk, 0, []
        for end in _BOUNDARY.finditer(text, max(0, len(self._held) - 2)):
            out.append(self._edited(text[at : end.end()]))
            at = end.end()
        self._held = text[at:]
        if len(self._held) > _EVENT:
            out.append(self._held)
            self._held = b""
        return b"".join(out)

    def close(self, *, whole: bool) -> bytes:
        """What is left at the stream's end; with the editor's last events where it is `whole`."""
        held, self._held = self._held, b""
        if not whole:
            return held
        if held and not held.endswith(b"\n"):
            held += b"\n\n"
        return (self._edited(held) if held else b"") + self._editor.rest()

    def _edited(self, block: bytes) -> bytes:
        data = b"\n".join(data_lines(block))
        if not data:
            return block
        edited = self._editor.event(data)
        return block if edited is None else edited


Row = dict[str, msgspec.Raw]
_row = msgspec.json.Decoder(Row)
_rows = msgspec.json.Decoder(list[Row])


def row(data: bytes | msgspec.Raw) -> Row:
    """An object's fields, each with its own bytes; {} for what is no object."""
    try:
        return _row.decode(data)
    except NOT_JSON:
        return {}


def rows(data: bytes | msgspec.Raw) -> list[Row]:
    """A list's objects, each as `row` gives it; [] for what is no list of objects."""
    try:
        return _rows.decode(data)
    except NOT_JSON:
        return []


def raw(value: object) -> msgspec.Raw:
    """A value as JSON."""
    return msgspec.Raw(msgspec.json.encode(value))


def string(fields: Row, name: str) -> str:
    """A field's text; "" where it has none."""
    value = fields.get(name)
    if value is None or bytes(value)[:1] != b'"':
        return ""
    try:
        return msgspec.json.decode(value, type=str)
    except NOT_JSON:
        return ""  # not UTF-8, which nobody has looked at so far


def number(fields: Row, name: str) -> int:
    """A field's whole number; 0 where it has none."""
    try:
        return msgspec.json.decode(fields.get(name, b"0"), type=int)
    except NOT_JSON:
        return 0
