"""How the kinds of engines want to be asked: which request fields they know, and under which names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Set
from typing import Any

from serve.dialects.wire import Request

# What an engine's /v1/models calls the owner of its models -> its kind: llama-server, Ollama, our own.
OWNERS = {"vllm": "vllm", "llamacpp": "llama.cpp", "library": "ollama", "trimtab": "onnx"}
# Of _EXTENSIONS, what the samplers of these kinds know under the same name.
_KNOWN = {"onnx": frozenset({"repetition_penalty", "top_k", "min_p"})}
# llama.cpp's names: https://github.com/ggml-org/llama.cpp/tree/master/tools/server
_LLAMA_CPP = {"repetition_penalty": "repeat_penalty", "top_k": "top_k", "min_p": "min_p", "typical_p": "typical_p"}
_LLAMA = ("llama.cpp", "llama-cpp-python")
# Kinds that ignore max_completion_tokens (llama-cpp-python; Ollama's page has only the older name).
_ONE_LIMIT = (*_LLAMA, "ollama")
ADAPTED = frozenset({"transformers", *_ONE_LIMIT})  # whose requests by clients may have to be changed
# Request fields that OpenAI does not have but engines of these kinds do.
_EXTENSIONS = frozenset({"repetition_penalty", "top_k", "min_p", "typical_p", "no_repeat_ngram_size", "length_penalty"})
_VLLM_ONLY = frozenset({"bad_words", "min_tokens"})  # ours to leave out elsewhere: only a rewriter's decoding has them
_OWN = _EXTENSIONS | _VLLM_ONLY


# Fields beyond OpenAI's that change an answer -> the kinds whose engines heed them; the others in _IGNORES leave them
# out without a word. Read in vLLM 0.32, llama-server and llama-cpp-python 0.3.36; Ollama's page has none of them.
# `transformers serve` and our own engine refuse what they do not know.
BEYOND: Mapping[str, tuple[str, ...]] = {
    "top_k": ("vllm", *_LLAMA), "min_p": ("vllm", *_LLAMA), "repetition_penalty": ("vllm", *_LLAMA),
    "length_penalty": ("vllm",), "ignore_eos": ("vllm", "llama.cpp"), "min_tokens": ("vllm", "llama-cpp-python"),
    "stop_token_ids": ("vllm",), "bad_words": ("vllm",), "allowed_token_ids": ("vllm",),
    "structured_outputs": ("vllm",), "typical_p": ("llama.cpp",), "repeat_penalty": _LLAMA,
    "mirostat": ("llama.cpp",), "mirostat_mode": ("llama-cpp-python",), "dry_multiplier": ("llama.cpp",),
    "xtc_probability": ("llama.cpp",), "grammar": _LLAMA, "json_schema": ("llama.cpp",),
    "no_repeat_ngram_size": (), "options": (), "think": (),
    "guided_json": ("vllm",), "guided_regex": ("vllm",), "guided_choice": ("vllm",), "guided_grammar": ("vllm",),
}  # fmt: skip
_IGNORES: Mapping[str, frozenset[str]] = {
    kind: frozenset(name for name, heeding in BEYOND.items() if kind not in heeding)
    for kind in ("vllm", *_LLAMA, "ollama")
}
# vLLM's until 0.11; from 0.12 on it has structured_outputs.
_GUIDED = frozenset(name for name in BEYOND if name.startswith("guided_"))
_UNGUIDED = (0, 12)
# Numbers with which such a field asks for nothing; of any other it is 0.
_NEUTRAL: Mapping[str, tuple[int, ...]] = {
    "repetition_penalty": (1,), "repeat_penalty": (1,), "length_penalty": (1,), "typical_p": (1,), "top_k": (0, -1),
}  # fmt: skip


def ignores(kind: str, version: str) -> frozenset[str]:
    """The fields of BEYOND that such an engine would accept and leave out; `version` is its own word, or ""."""
    names = _IGNORES.get(kind, frozenset())
    told = re.match(r"v?(\d+)\.(\d+)", version)
    if kind == "vllm" and told is not None and (int(told[1]), int(told[2])) >= _UNGUIDED:
        return names | _GUIDED
    return names


def ignored(names: Set[str], request: Request) -> list[str]:
    """Those of `names` by which a client asks for something, as they come in its request."""
    return [name for name in request.fields if name in names and not _idle(name, request.value(name))]


def _idle(name: str, value: Any) -> bool:
    """Whether the field with this decoded value asks for nothing."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value in _NEUTRAL.get(name, (0,))
    return not value


def unknown(kind: str, names: Iterable[str]) -> list[str]:
    """Those of a profile's decoding settings that `adapt` leaves out, sorted."""
    if kind in ("vllm", "transformers") or _OWN.isdisjoint(names):
        return []
    known = _LLAMA_CPP.keys() if kind in _LLAMA else _KNOWN.get(kind, frozenset())
    return sorted(_OWN.intersection(names) - known)


def must_adapt(kind: str, fields: Iterable[str]) -> bool:
    """Whether a client's own fields mean something else, or nothing, to this kind."""
    if kind in _ONE_LIMIT:
        return any(name in ("max_completion_tokens", "logprobs", "repetition_penalty") for name in fields)
    return kind == "transformers" and any(
        name in ("temperature", "logit_bias") or name in _EXTENSIONS for name in fields
    )


def adapt(kind: str, fields: Mapping[str, Any], generation: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as this kind knows them; `generation` is the model's generation_config.json.

    OpenAI's own engine refuses what it does not know, so the extensions of a profile's decoding go only to engines
    that have them.
    """
    out = dict(fields)
    if kind not in ADAPTED and _OWN.isdisjoint(out):  # nothing that only some engines know
        return out
    if kind in _ONE_LIMIT and "max_completion_tokens" in out:
        out["max_tokens"] = out.pop("max_completion_tokens")
    if kind == "vllm":
        return out
    for name in _VLLM_ONLY:
        if name in out and not _is_raw(out[name]):
            del out[name]
    extra = {name: out.pop(name) for name in list(out) if name in _EXTENSIONS and not _is_raw(out[name])}
    if kind == "transformers":
        return _of_transformers(out, extra, generation)
    if kind in _LLAMA:
        if "top_logprobs" not in out and (asked := out.get("logprobs")) is not None and _plain(asked) is True:
            out["top_logprobs"] = 1  # without it llama-cpp-python tells none at all
        extra |= {name: out.pop(name) for name in list(out) if name in _LLAMA_CPP}
        return out | {_LLAMA_CPP[name]: value for name, value in extra.items() if name in _LLAMA_CPP}
    return out | {name: value for name, value in extra.items() if name in _KNOWN.get(kind, ())}


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
    if "logit_bias" in out:  # which its completions would ignore
        told["sequence_bias"] = _biases(out.pop("logit_bias"))
    out["generation_config"] = json.dumps(told)
    return out


def _biases(raw: Any) -> list[list[Any]]:
    """OpenAI's biases by token id as transformers' by sequence of ids; it answers 422 to what it cannot read."""
    biases = _plain(raw)
    return [[[int(token)], float(bias)] for token, bias in biases.items()] if isinstance(biases, dict) else []


def _plain(value: Any) -> Any:
    return json.loads(bytes(value)) if _is_raw(value) else value


def _is_raw(value: Any) -> bool:
    return not isinstance(value, (str, int, float, bool, list, dict, type(None)))
