"""Keys that differ from a known one in case only: an engine whose decoder ignores case would read them, and we not."""

from __future__ import annotations

import re
from functools import cache

import msgspec

from serve.errors import BadRequest

# Fields of a body that this server or a policy decides by.
KNOWN = frozenset({
    "model", "messages", "prompt", "input", "query", "documents", "system", "instructions", "stream",
    "stream_options", "trimtab", "n", "best_of", "max_tokens", "max_completion_tokens", "max_output_tokens",
    "max_tokens_to_sample", "stop", "stop_sequences", "tools", "tool_choice", "functions", "function_call",
    "response_format", "text", "format", "logprobs", "top_logprobs", "echo", "suffix", "store",
    "previous_response_id", "conversation", "template", "options", "request_id", "priority", "kv_transfer_params",
    "vllm_xargs", "chat_template", "chat_template_kwargs", "cache_salt", "prompt_token_ids",
    "truncate_prompt_tokens", "prompt_embeds", "temperature", "top_p", "top_k", "seed", "user", "metadata",
    "frequency_penalty", "presence_penalty", "logit_bias", "parallel_tool_calls", "reasoning_effort",
    "modalities", "audio", "prediction", "service_tier",
})  # fmt: skip
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function", "critic", "discriminator"})
_LONG = 64 * len(rb"\u0000") + 2  # bytes that a key has at most which `_KEY` finds
_WINDOW = 2**18  # bytes that one search takes, which holds the interpreter's lock
_KEY = re.compile(rb'"((?:\w|\\u[0-9A-Fa-f]{4}|[\x80-\xff]){1,64}+)"\s*+:')


def misspelled(name: str, param: str) -> BadRequest:
    """The refusal of a field that differs from a known one in case only."""
    return BadRequest(
        f'{name!r} differs from the field "{name.casefold()}" in case only; write it as "{name.casefold()}"',
        code="field_spelling",
        param=param,
    )


def refuse_misspelled_role(role: str, param: str) -> None:
    """Refuse a role that differs from a known one in case only: templates differ in whether they take it for that one.

    Raises:
        BadRequest: naming the role.
    """
    if role not in _ROLES and (meant := role.strip().casefold()) in _ROLES:
        raise BadRequest(
            f'the role {role!r} differs from "{meant}" in case or blanks only; write it as "{meant}"',
            code="field_spelling",
            param=param,
        )


def refuse_misspelled(raw: msgspec.Raw, known: frozenset[str], param: str) -> None:
    """Refuse a key of a list's objects, or of the objects in their lists, that differs from a known one in case only.

    Deeper ones are a tool's own. A quick look at the bytes finds what looks like such a key, which is rare; what a
    string says is escaped there.

    Raises:
        BadRequest: naming the key, or something that cannot be read.
    """
    keys = _keys(raw) - _encoded(known)
    if not keys:
        return
    try:
        if not any(name.casefold() in known for name in {_name(key) for key in keys} - known):
            return
        rows = msgspec.json.decode(raw)
    except msgspec.MsgspecError as error:
        raise BadRequest(f"{param}: {error}", param=param) from None
    objects = [row for row in rows if isinstance(row, dict)]
    parts = [it for row in objects for value in row.values() if isinstance(value, list) for it in value]
    for name in {key for it in (*objects, *parts) if isinstance(it, dict) for key in it} - known:
        if name.casefold() in known:
            raise misspelled(name, param)


def _keys(raw: msgspec.Raw) -> set[bytes]:
    """What looks like a key anywhere in the text: it stands before a colon, and holds none."""
    if len(memoryview(raw)) <= _WINDOW:
        return set(_KEY.findall(raw))
    text, at, found = bytes(raw), 0, set[bytes]()
    while (near := text.find(b":", at)) >= 0:
        if (last := text.rfind(b":", at, at + _WINDOW)) >= 0:
            found.update(_KEY.findall(text, at, last + 1))
            at = last + 1
        else:  # the next is far away, and only what stands right before it can be a key
            end = at + len(text[at:near].rstrip())
            found.update(_KEY.findall(text, max(at, end - _LONG), near + 1))
            at = near + 1
    return found


def _name(key: bytes) -> str:
    return str(msgspec.json.decode(b'"%s"' % key)) if b"\\" in key else key.decode("utf-8", "replace")


@cache
def _encoded(names: frozenset[str]) -> frozenset[bytes]:
    return frozenset(name.encode() for name in names)
