"""Annotations written into a chat completion, or a text completion: into its chunks, or whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from serve.dialects.annotation import Annotation
from serve.dialects.edited import Row, number, raw, row, rows, string
from serve.dialects.sse import DONE

_HEAD = ("id", "object", "created", "model")


class ChatEditor:
    """Edits one answer of either of OpenAI's completions APIs."""

    def __init__(self, annotation: Annotation) -> None:
        self._annotation = annotation
        self._head: Row = {}
        self._finished: set[int] = set()

    def event(self, data: bytes) -> bytes | None:
        """A chunk with its texts edited. The one that ends the last choice also holds the answer's field."""
        if data == DONE:
            rest = self.rest()
            return rest + b"data: [DONE]\n\n" if rest else None
        fields = row(data)
        choices = rows(fields.get("choices", b"[]"))
        if not choices:
            return None
        self._head = self._head or {name: fields[name] for name in _HEAD if name in fields}
        changed, told = False, None
        for choice in choices:
            edited, ended = self._edit(choice)
            changed |= edited
            told = told or (self._annotation.told() if ended else None)
        return self._written(fields, choices, told) if changed or told else None

    def rest(self) -> bytes:
        """A chunk of its own with the answer's field, where the choices did not all end."""
        told = self._annotation.told() if self._head else None
        return self._written(self._head, [], told) if told else b""

    def whole(self, body: bytes) -> bytes:
        """A completion with its texts edited, and its field."""
        fields = row(body)
        choices = rows(fields.get("choices", b"[]"))
        for choice in choices:
            index, finish = number(choice, "index"), string(choice, "finish_reason")
            self._annotation.ended()
            holder, name = (choice, "text") if "text" in choice else (row(choice.get("message", b"")), "content")
            if text := string(holder, name):
                holder[name] = raw(self._annotation.edit(index, 0, text, finish))
                if name == "content":
                    choice["message"] = raw(holder)
        if not choices:
            return body
        told = self._annotation.told()
        more = {"trimtab": raw(told)} if told else {}
        return msgspec.json.encode({**fields, "choices": raw(choices), **more})

    def _edit(self, choice: Row) -> tuple[bool, bool]:
        """Edit a chunk's choice: whether that changes it, whether all choices have ended with it."""
        index, finish = number(choice, "index"), string(choice, "finish_reason")
        holder, name = (choice, "text") if "text" in choice else (row(choice.get("delta", b"")), "content")
        text = string(holder, name)
        passed = self._annotation.feed(index, 0, text) if text else ""
        ended = False
        if finish and index not in self._finished:
            self._finished.add(index)
            passed += self._annotation.end(index, 0, finish)
            ended = self._annotation.ended()
        if passed == text:
            return False, ended
        holder[name] = raw(passed)
        if name == "content":
            choice["delta"] = raw(holder)
        return True, ended

    def _written(self, fields: Row, choices: list[Row], told: Mapping[str, Any] | None) -> bytes:
        more = {"trimtab": raw(told)} if told else {}
        return b"data: %s\n\n" % msgspec.json.encode({**fields, "choices": raw(choices), **more})


def editor(annotation: Annotation) -> ChatEditor:
    """What writes an annotation into a completion."""
    return ChatEditor(annotation)
