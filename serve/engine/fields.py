"""Request fields that reach into an engine: past the prompt, into its scheduler, its caches, its templates.

Gateways merge `extra_body` into the body that they send on, so it is judged by what it holds.

They are for whoever runs the engine. A client's are refused unless the engine's `fields_pass` names them: with
`truncate_prompt_tokens` or `chat_template` a policy's text could be cut off or left out, with `priority` or
`kv_transfer_params` one tenant reaches another's requests.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import msgspec

from serve.dialects.spelling import KNOWN
from serve.dialects.wire import NULL, Raw
from serve.errors import BadRequest

# field -> what it reaches into. Of vLLM, SGLang, llama.cpp, TensorRT-LLM and gateways (LiteLLM, OpenRouter).
GUARDED: Mapping[str, str] = {
    "request_id": "requests", "rid": "requests", "priority": "scheduler", "data_parallel_rank": "scheduler",
    "id_slot": "scheduler", "bootstrap_host": "scheduler", "bootstrap_port": "scheduler", "bootstrap_room": "scheduler",
    "kv_transfer_params": "cache", "ec_transfer_params": "cache", "disaggregated_params": "cache",
    "cache_salt": "cache", "extra_key": "cache",
    "session_params": "cache", "vllm_xargs": "internals", "logits_processors": "internals",
    "custom_logit_processor": "internals", "lora_path": "internals", "chat_template": "chat template",
    "template": "chat template",
    "chat_template_kwargs": "chat template", "prompt_token_ids": "prompt", "input_ids": "prompt",
    "prompt_embeds": "prompt", "input_embeds": "prompt", "truncate_prompt_tokens": "prompt",
    "previous_input_messages": "prompt", "prompt_id": "prompt", "transforms": "prompt", "n_keep": "prompt",
    "n_discard": "prompt", "lora": "internals", "fallbacks": "routing", "extra_body": "request",
    "extra_headers": "request", "extra_query": "request",
}  # fmt: skip
# Fields that name what an engine has stored, for anyone who asks with the engine's key: guarded where tenants share it.
STORED: Mapping[str, str] = {"previous_response_id": "stored responses", "conversation": "stored conversations"}
# Of `chat_template_kwargs`, what clients set every day and no template hides a prompt by.
_EVERYDAY = frozenset({"enable_thinking", "thinking", "reasoning_effort"})


def refuse_guarded(fields: Mapping[str, Raw], passes: Collection[str], engine: str, *, salted: bool) -> None:
    """Refuse a guarded field that the engine does not let pass.

    Args:
        passes: the engine's `fields_pass`.
        salted: the policy gives requests a cache salt of its own, which takes the place of the client's.

    Raises:
        BadRequest: naming the field and the setting.
    """
    if GUARDED.keys().isdisjoint(fields):
        return
    for name in fields:
        if name in GUARDED and name not in passes and fields[name] != NULL:
            if (name == "cache_salt" and salted) or (name in _HARMLESS and _HARMLESS[name](fields[name])):
                continue
            raise BadRequest(
                f"{name} reaches into the engine's {GUARDED[name]} and is not passed on. To allow it, set "
                f'fields_pass = ["{name}"] in [engine.{engine}].',
                code="field_not_passed",
                param=name,
            )


def refuse_stored(name: str, asked: str, passes: Collection[str], engine: str) -> None:
    """Refuse to name what an engine that several tenants share has stored, unless `fields_pass` has `name` of STORED.

    Args:
        asked: what the request has of it, for the message.

    Raises:
        BadRequest: naming the setting.
    """
    if name not in passes:
        raise BadRequest(
            f"{asked} reaches into the {STORED[name]} of engine {engine!r}, which keys of several tenants may use and "
            f'which does not tell them apart. To allow it, set fields_pass = ["{name}"] in [engine.{engine}], or give '
            "the keys one tenant.",
            code="field_not_passed",
            param=asked,
        )


def _everyday(raw: Raw) -> bool:
    return (names := _names(raw)) is not None and names <= _EVERYDAY


def _own(raw: Raw) -> bool:
    """Whether none of an `extra_body`'s fields would take the place of one that is judged here or by a policy."""
    return (names := _names(raw)) is not None and not any(name.casefold() in _JUDGED for name in names)


def _nothing(raw: Raw) -> bool:
    return bytes(raw) in (b"[]", b"{}")


def _names(raw: Raw) -> set[str] | None:
    """The keys of an object; None where it is none."""
    try:
        return set(msgspec.json.decode(raw, type=dict[str, Raw]))
    except msgspec.MsgspecError:
        return None


_JUDGED = KNOWN | GUARDED.keys()
# Guarded fields that may pass, by what they hold.
_HARMLESS: Mapping[str, Callable[[Raw], bool]] = {
    "chat_template_kwargs": _everyday, "extra_body": _own, "extra_headers": _nothing, "extra_query": _nothing,
    "fallbacks": _nothing, "transforms": _nothing, "lora": _nothing,
}  # fmt: skip
