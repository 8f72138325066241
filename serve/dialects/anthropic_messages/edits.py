"""Annotations written into a message: into its events, or whole."""

from __future__ import annotations

import msgspec

from serve.dialects.annotation import Annotation
from serve.dialects.edited import Row, number, raw, row, rows, string


class MessageEditor:
    """Edits one message. Each text block is a text of its own."""

    def __init__(self, annotation: Annotation) -> None:
        self._annotation = annotation

    def event(self, data: bytes) -> bytes | None:
        """An event with its text edited; message_delta also holds the answer's field."""
        fields = row(data)
        kind = string(fields, "type")
        if kind == "content_block_start":
            block = row(fields.get("content_block", b""))
            if not (text := string(block, "text")) or string(block, "type") != "text":
                return None
            block["text"] = raw(self._annotation.feed(0, number(fields, "index"), text))
            return _event({**fields, "content_block": raw(block)})
        if kind == "content_block_delta":
            return self._delta(fields)
        if kind == "content_block_stop":
            index = number(fields, "index")
            rest = "" if self._annotation.text(0, index) is None else self._annotation.end(0, index)
            return _event(_text_delta(index, rest)) + _event(fields) if rest else None
        if kind == "message_delta" and (told := self._annotation.told()):
            return _event({**fields, "trimtab": raw(told)})
        return None

    def rest(self) -> bytes:
        """Nothing: message_delta holds all there is to tell."""
        return b""

    def whole(self, body: bytes) -> bytes:
        """A message with its texts edited, and its field."""
        fields = row(body)
        blocks, reason = rows(fields.get("content", b"[]")), string(fields, "stop_reason")
        if not blocks:
            return body
        for index, block in enumerate(blocks):
            if string(block, "type") == "text" and (text := string(block, "text")):
                block["text"] = raw(self._annotation.edit(0, index, text, reason))
        told = self._annotation.told()
        more = {"trimtab": raw(told)} if told else {}
        return msgspec.json.encode({**fields, "content": raw(blocks), **more})

    def _delta(self, fields: Row) -> bytes | None:
        delta = row(fields.get("delta", b""))
        text = string(delta, "text")
        if string(delta, "type") != "text_delta" or not text:
            return None
        passed = self._annotation.feed(0, number(fields, "index"), text)
        return None if passed == text else _event({**fields, "delta": raw({**delta, "text": raw(passed)})})


def _text_delta(index: int, text: str) -> Row:
    delta = {"type": "text_delta", "text": text}
    return {"type": raw("content_block_delta"), "index": raw(index), "delta": raw(delta)}


def _event(fields: Row) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (string(fields, "type").encode(), msgspec.json.encode(fields))


def editor(annotation: Annotation) -> MessageEditor:
    """What writes an annotation into a message."""
    return MessageEditor(annotation)
