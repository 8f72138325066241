"""How the kinds of engines want to be asked: which request fields they know, and under which names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

# Request fields that OpenAI does not have but engines of these kinds do.
_EXTENSIONS = frozenset({"repetition_penalty", "top_k", "min_p", "typical_p", "no_repeat_ngram_size", "length_penalty"})
_VLLM_ONLY = frozenset({"bad_words", "min_tokens"})  # ours to leave out elsewhere: only a rewriter's decoding has them
_OWN = _EXTENSIONS | _VLLM_ONLY


def unknown(kind: str, names: Iterable[str]) -> list[str]:
    """Those of a profile's decoding settings that `adapt` leaves out, sorted."""
    if kind in ("vllm", "transformers"):
        return []
    return sorted(_OWN.intersection(names))


def must_adapt(kind: str, fields: Iterable[str]) -> bool:
    """Whether a client's own fields mean something else, or nothing, to this kind."""
    return kind == "transformers" and any(name == "temperature" or name in _EXTENSIONS for name in fields)


def adapt(kind: str, fields: Mapping[str, Any], generation: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as this kind knows them; `generation` is the model's generation_config.json.

    OpenAI's own engine refuses what it does not know, so the extensions of a profile's decoding go only to engines
    that have them.
    """
    out = dict(fields)
    if kind == "vllm":
        return out
    for name in _VLLM_ONLY:
        if name in out and not _is_raw(out[name]):
            del out[name]
    extra = {name: out.pop(name) for name in list(out) if name in _EXTENSIONS and not _is_raw(out[name])}
    return _of_transformers(out, extra, generation) if kind == "transformers" else out


def _of_transformers(out: dict[str, Any], extra: dict[str, Any], generation: Mapping[str, Any]) -> dict[str, Any]:
    """`transformers serve` wants extensions in `generation_config`, and samples only when told."""
    extra |= {name: json.loads(bytes(out.pop(name))) for name in list(out) if name in _EXTENSIONS}
    temperature = out.get("temperature", 0)
    temperature = json.loads(bytes(temperature)) if _is_raw(temperature) else temperature
    told = {"top_k": 0, **generation, "max_new_tokens": 1024, **extra}
    told["do_sample"] = bool(temperature)
    if temperature:
        told["temperature"] = temperature
    else:
        # Its validation refuses a sampling setting that greedy decoding would not use.
        for name in ("temperature", "top_k", "top_p", "min_p", "typical_p"):
            told.pop(name, None)
        out.pop("temperature", None)
    out.pop("stream_options", None)  # its streams end with the usage, asked or not
    out["generation_config"] = json.dumps(told)
    return out


def _is_raw(value: Any) -> bool:
    return not isinstance(value, (str, int, float, bool, list, dict, type(None)))
