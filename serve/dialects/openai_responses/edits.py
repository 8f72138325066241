"""Annotations written into a response: into its events, or whole."""

from __future__ import annotations

import msgspec

from serve.dialects.annotation import Annotation
from serve.dialects.edited import Row, number, raw, row, rows, string

_LAST = ("response.completed", "response.incomplete")
_TEXT = "output_text"


class ResponsesEditor:
    """Edits one response. Each text part is a text of its own; an event of ours moves the numbers of later ones."""

    def __init__(self, annotation: Annotation) -> None:
        self._annotation = annotation
        self._more = 0  # events of ours so far

    def event(self, data: bytes) -> bytes | None:
        """An event with its text edited; the last one also holds the answer's field."""
        fields = row(data)
        kind = string(fields, "type")
        before, changed = b"", False
        if kind == "response.output_text.delta":
            changed = self._delta(fields)
        elif kind == "response.output_text.done":
            before, changed = self._done(fields)
        elif kind == "response.content_part.done":
            part = row(fields.get("part", b""))
            if changed := self._part(part, _place(fields)):
                fields["part"] = raw(part)
        elif kind == "response.output_item.done":
            item = row(fields.get("item", b""))
            if changed := self._item(item, number(fields, "output_index")):
                fields["item"] = raw(item)
        elif kind in _LAST:
            changed = self._last(fields)
        if not changed and not self._more:
            return None
        return before + self._event(fields)

    def rest(self) -> bytes:
        """Nothing: the last event holds all there is to tell."""
        return b""

    def whole(self, body: bytes) -> bytes:
        """A response with its texts edited, and its field."""
        fields = row(body)
        output = rows(fields.get("output", b"[]"))
        if not output:
            return body
        finish = string(fields, "status")
        for index, item in enumerate(output):
            parts = rows(item.get("content", b"[]"))
            for at, part in enumerate(parts):
                if string(part, "type") == _TEXT and (text := string(part, "text")):
                    part["text"] = raw(self._annotation.edit(0, (index, at), text, finish))
                    item["content"] = raw(parts)
        return msgspec.json.encode(self._told({**fields, "output": raw(output)}))

    def _delta(self, fields: Row) -> bool:
        text = string(fields, "delta")
        passed = self._annotation.feed(0, _place(fields), text)
        fields["delta"] = raw(passed)
        return passed != text

    def _done(self, fields: Row) -> tuple[bytes, bool]:
        """The event with the rest of a text that comes before its end, and whether its end changes."""
        place, before = _place(fields), b""
        if rest := self._annotation.end(0, place):
            names = ("item_id", "output_index", "content_index", "sequence_number")
            own = {name: fields[name] for name in names if name in fields}
            before = self._event(
                {"type": raw("response.output_text.delta"), **own, "delta": raw(rest), "logprobs": raw([])}
            )
            self._more += 1
        text = self._annotation.text(0, place)
        changed = text is not None and text != string(fields, "text")
        if changed:
            fields["text"] = raw(text)
        return before, changed

    def _part(self, part: Row, place: tuple[int, int]) -> bool:
        text = self._annotation.text(0, place)
        if text is None or string(part, "type") != _TEXT or text == string(part, "text"):
            return False
        part["text"] = raw(text)
        return True

    def _item(self, item: Row, index: int) -> bool:
        parts = rows(item.get("content", b"[]"))
        changed = [self._part(part, (index, at)) for at, part in enumerate(parts)]
        if any(changed):
            item["content"] = raw(parts)
        return any(changed)

    def _last(self, fields: Row) -> bool:
        response = row(fields.get("response", b""))
        output = rows(response.get("output", b"[]"))
        changed = [self._item(item, index) for index, item in enumerate(output)]
        if any(changed):
            response["output"] = raw(output)
        fields["response"] = raw(self._told(response))
        return True

    def _told(self, response: Row) -> Row:
        told = self._annotation.told()
        return {**response, "trimtab": raw(told)} if told else response

    def _event(self, fields: Row) -> bytes:
        if self._more and "sequence_number" in fields:
            fields = {**fields, "sequence_number": raw(number(fields, "sequence_number") + self._more)}
        return b"event: %s\ndata: %s\n\n" % (string(fields, "type").encode(), msgspec.json.encode(fields))


def _place(fields: Row) -> tuple[int, int]:
    return number(fields, "output_index"), number(fields, "content_index")


def editor(annotation: Annotation) -> ResponsesEditor:
    """What writes an annotation into a response."""
    return ResponsesEditor(annotation)
