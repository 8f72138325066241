"""Messages of content blocks as a chat completion's, for an engine without this API.

Tool results are blocks of a user message here; each becomes a message of its own. Unsigned thinking, which such an
engine wrote, is sent back as `reasoning_content`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from prompt_opt.core import Message
from serve.errors import BadRequest

ROLES = {"ctx": "user", "msg": "user"}  # that Claude Code sends beside the documented ones


class _Row(msgspec.Struct):
    """The part of a message that is translated."""

    role: str
    content: str | list[dict[str, Any]] | None = None


_row = msgspec.json.Decoder(_Row)
_inputs = msgspec.json.Decoder(dict[str, msgspec.Raw])


def messages(rows: Sequence[Message]) -> Sequence[Message]:
    """The messages as a chat completion's.

    Raises:
        BadRequest: a chat completion cannot express a block; the message names its type.
    """
    out: list[dict[str, Any]] = []
    for message in rows:
        raw = message.json()
        row = _row.decode(raw)
        row.role = ROLES.get(row.role, row.role)
        if not isinstance(row.content, list):
            out.append({"role": row.role, "content": row.content or ""})
        elif row.role == "assistant":
            out.append(_answer(row.content, raw))
        elif row.role == "user":
            out += _question(row.content)
        else:
            out.append({"role": "system", "content": "\n\n".join(_texts(row.content, "system"))})
    return [Message(row["role"], row.get("content"), raw=msgspec.json.encode(row)) for row in out]


def _question(blocks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A user message: tool results first, one message each; images inside them join the user's own parts."""
    out, parts = [], []
    for block in blocks:
        if block.get("type") != "tool_result":
            parts.append(_part(block))
            continue
        content = block.get("content") or ""
        if isinstance(content, list):
            parts += [_part(part) for part in content if part.get("type") == "image"]
            content = "\n".join(_texts([p for p in content if p.get("type") != "image"], "tool_result"))
        if block.get("is_error") is True and not content.lower().startswith("error"):
            content = f"Error: {content}"  # a chat completion has no field for it
        out.append({"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": content})
    if len(parts) == 1 and parts[0]["type"] == "text":
        out.append({"role": "user", "content": parts[0]["text"]})
    elif parts or not out:
        out.append({"role": "user", "content": parts})
    return out


def _answer(blocks: Sequence[dict[str, Any]], raw: bytes) -> dict[str, Any]:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    raws = msgspec.json.decode(_inputs.decode(raw)["content"], type=list[msgspec.Raw])
    for block, whole in zip(blocks, raws, strict=True):
        kind = block.get("type")
        if kind == "text":
            texts.append(str(block.get("text") or ""))
        elif kind == "thinking":
            # Signed thinking is another maker's, whose models alone can read it.
            thoughts += [str(block.get("thinking") or "")] if not block.get("signature") else []
        elif kind == "tool_use":
            given = bytes(_inputs.decode(whole).get("input", msgspec.Raw(b"{}"))).decode()
            function = {"name": block.get("name"), "arguments": given}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif kind != "redacted_thinking":
            raise _refused(kind, "an assistant message")
    row: dict[str, Any] = {"role": "assistant", "content": "".join(texts) if texts or not calls else None}
    row |= {"tool_calls": calls} if calls else {}
    return row | ({"reasoning_content": "".join(thoughts)} if any(thoughts) else {})


def _texts(blocks: Iterable[dict[str, Any]], what: str) -> Iterable[str]:
    for block in blocks:
        if block.get("type") != "text":
            raise _refused(block.get("type"), what)
        yield str(block.get("text") or "")


def _part(block: dict[str, Any]) -> dict[str, Any]:
    kind, source = block.get("type"), block.get("source")
    source = source if isinstance(source, dict) else {}
    url = source.get("url") if source.get("type") == "url" else None
    if source.get("type") == "base64":
        url = f"data:{source.get('media_type')};base64,{source.get('data')}"
    if kind == "text":
        return {"type": "text", "text": block.get("text") or ""}
    if kind == "image" and url:
        return {"type": "image_url", "image_url": {"url": url}}
    if kind == "document" and source.get("type") == "text":
        return {"type": "text", "text": source.get("data") or ""}
    if kind == "document" and source.get("type") == "base64":
        return {"type": "file", "file": {"filename": block.get("title") or "document", "file_data": url}}
    raise _refused(kind, "a message without inline data or URL" if source else "a message")


def _refused(kind: Any, what: str) -> BadRequest:
    return BadRequest(
        f"messages holds a block of type {kind!r} in {what}, which cannot be translated to a chat completion; "
        "this engine has no /v1/messages",
        code="not_translatable", param="messages",
    )  # fmt: skip
