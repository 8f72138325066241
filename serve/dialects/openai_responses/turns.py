"""Input items as a chat completion's messages, for an engine without this API.

Reasoning, text and function calls of one turn are separate items here; they become one assistant message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from prompt_opt.core import SYSTEM_ROLES, Message
from serve.errors import BadRequest

_TEXTS = ("input_text", "output_text", "text")


def messages(rows: Sequence[Message]) -> Sequence[Message]:
    """The items as chat messages: one leading system message, then one message per turn or tool result.

    Raises:
        BadRequest: a chat completion cannot express an item or part; the message names its type.
    """
    out: list[dict[str, Any]] = []
    for row in rows:
        item = msgspec.json.decode(row.json())
        kind = item.get("type") or "message"
        if kind == "message" and item.get("role") != "assistant":
            _say(out, item)
        elif kind in _ANSWERS:
            _ANSWERS[kind](_open_turn(out), item)
        elif kind == "function_call_output":
            content = _joined(item.get("output"), "a tool's output")
            out.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
        else:
            raise _refused(f"an item of type {kind!r}")
    return [_message(row) for row in out if row.keys() != {"role"}]


def _message(row: dict[str, Any]) -> Message:
    if row["role"] == "assistant":
        row.setdefault("content", None if "tool_calls" in row else "")
    return Message(row["role"], row.get("content"), raw=msgspec.json.encode(row))


def _say(out: list[dict[str, Any]], item: dict[str, Any]) -> None:
    """A message of the user or the system. Leading system messages are merged: chat templates accept only one."""
    role = "system" if item.get("role") in SYSTEM_ROLES else item.get("role")
    if role == "system":
        content = _joined(item.get("content"), "a system message")
        if len(out) == 1 and out[0]["role"] == "system":
            out[0]["content"] += f"\n\n{content}"
            return
    else:
        content = _content(item.get("content"))
    out.append({"role": role, "content": content})


def _open_turn(out: list[dict[str, Any]]) -> dict[str, Any]:
    """The assistant message of the current turn; a new one if the last message is someone else's."""
    if not out or out[-1]["role"] != "assistant":
        out.append({"role": "assistant"})
    return out[-1]


def _text(turn: dict[str, Any], item: dict[str, Any]) -> None:
    content = _joined(item.get("content"), "an assistant message")
    turn["content"] = f"{turn['content']}\n\n{content}" if turn.get("content") else content


def _call(turn: dict[str, Any], item: dict[str, Any]) -> None:
    function = {"name": item.get("name"), "arguments": item.get("arguments") or ""}
    turn.setdefault("tool_calls", []).append({"id": item.get("call_id"), "type": "function", "function": function})


def _reasoning(turn: dict[str, Any], item: dict[str, Any]) -> None:
    """Plain reasoning is sent back as reasoning_content. Encrypted reasoning is dropped: only its maker can read it."""
    parts = item.get("content")
    text = "".join(str(p.get("text", "")) for p in parts if isinstance(p, dict)) if isinstance(parts, list) else ""
    if text:
        turn["reasoning_content"] = turn.get("reasoning_content", "") + text


_ANSWERS = {"message": _text, "function_call": _call, "reasoning": _reasoning}


def _content(content: Any) -> Any:
    """A user's content: a string stays one, parts become a chat completion's."""
    if isinstance(content, list):
        return [_part(part) for part in content]
    return content


def _joined(content: Any, what: str) -> str:
    """Text parts as one string, which chat templates expect outside user messages."""
    if isinstance(content, str) or content is None:
        return content or ""
    if not isinstance(content, list):
        raise _refused(f"{what} that is neither a string nor a list of parts")
    return "".join(_texts(content, what))


def _texts(parts: Iterable[Any], what: str) -> Iterable[str]:
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "refusal":
            yield str(part.get("refusal") or "")
        elif kind in _TEXTS:
            yield str(part.get("text") or "")
        else:
            raise _refused(f"a part of type {kind!r} in {what}")


def _part(part: Any) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in _TEXTS:
        return {"type": "text", "text": part.get("text") or ""}
    if kind == "input_image" and part.get("image_url"):
        detail = {"detail": part["detail"]} if part.get("detail") else {}
        return {"type": "image_url", "image_url": {"url": part["image_url"], **detail}}
    if kind == "input_file" and part.get("file_data"):
        names = ("filename", "file_data")
        return {"type": "file", "file": {name: part[name] for name in names if part.get(name)}}
    if kind == "input_audio":
        return dict(part)
    raise _refused(f"a part of type {kind!r} without inline data or URL" if kind else "a part without a type")


def _refused(what: str) -> BadRequest:
    return BadRequest(
        f"input holds {what}, which cannot be translated to a chat completion; this engine has no /v1/responses",
        code="not_translatable", param="input",
    )  # fmt: skip
