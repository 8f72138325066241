"""Request fields that reach into an engine: past the prompt, into its scheduler, its caches, its templates.

They are for whoever runs the engine. A client's are refused unless the engine's `fields_pass` names them: with
`truncate_prompt_tokens` or `chat_template` a policy's text could be cut off or left out, with `priority` or
`kv_transfer_params` one tenant reaches another's requests.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from serve.dialects.wire import NULL, Raw
from serve.errors import BadRequest

# field -> what it reaches into. Of vLLM, SGLang, llama.cpp and TensorRT-LLM.
GUARDED: Mapping[str, str] = {
    "request_id": "requests", "rid": "requests", "priority": "scheduler", "data_parallel_rank": "scheduler",
    "id_slot": "scheduler", "bootstrap_host": "scheduler", "bootstrap_port": "scheduler", "bootstrap_room": "scheduler",
    "kv_transfer_params": "cache", "disaggregated_params": "cache", "cache_salt": "cache", "extra_key": "cache",
    "session_params": "cache", "vllm_xargs": "internals", "logits_processors": "internals",
    "custom_logit_processor": "internals", "lora_path": "internals", "chat_template": "chat template",
    "chat_template_kwargs": "chat template", "prompt_token_ids": "prompt", "input_ids": "prompt",
    "prompt_embeds": "prompt", "input_embeds": "prompt", "truncate_prompt_tokens": "prompt",
}  # fmt: skip
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
            if (name == "cache_salt" and salted) or (name == "chat_template_kwargs" and _everyday(fields[name])):
                continue
            raise BadRequest(
                f"{name} reaches into the engine's {GUARDED[name]} and is not passed on. To allow it, set "
                f'fields_pass = ["{name}"] in [engine.{engine}].',
                code="field_not_passed",
                param=name,
            )


def _everyday(raw: Raw) -> bool:
    try:
        return msgspec.json.decode(raw, type=dict[str, Raw]).keys() <= _EVERYDAY
    except msgspec.MsgspecError:
        return False
