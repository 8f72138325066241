"""What requests may ask of an engine: the features that `supports` names, and the paths that not every engine has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prompt_opt.core import Chat
from serve.dialects.wire import Request

_IMAGES = ("image_url", "input_image", "image")
_AUDIO = ("input_audio", "audio_url")


def _set(name: str, *unset: Any) -> Callable[[Request, Chat | None], bool]:
    def used(request: Request, chat: Chat | None) -> bool:
        value = request.value(name)
        return value is not None and value is not False and value not in ([], {}, *unset)

    return used


def _parts(types: tuple[str, ...]) -> Callable[[Request, Chat | None], bool]:
    return lambda request, chat: chat is not None and any(kind in types for m in chat.messages for kind in m.media)


def _one_call_at_most(request: Request, chat: Chat | None) -> bool:
    """Whether more than one tool call could come and is not wanted. Clients set it beside any choice of a tool."""
    if request.value("parallel_tool_calls") is not False or not request.value("tools"):
        return False
    choice = request.value("tool_choice")
    return choice != "none" and not (isinstance(choice, dict) and choice.get("type") == "function")


# feature -> does this request use it? What `supports` leaves out is refused by name, never dropped in silence.
FEATURES: Mapping[str, Callable[[Request, Chat | None], bool]] = {
    "n": _set("n", 1),
    "best_of": _set("best_of", 1),
    "echo": _set("echo"),
    "logprobs": _set("logprobs"),
    "top_logprobs": _set("top_logprobs", 0),
    "prompt_logprobs": _set("prompt_logprobs"),
    "response_format": _set("response_format", {"type": "text"}),
    "tools": _set("tools"),
    "tool_choice": _set("tool_choice", "auto", "none"),
    "functions": _set("functions"),
    "presence_penalty": _set("presence_penalty", 0),
    "frequency_penalty": _set("frequency_penalty", 0),
    "logit_bias": _set("logit_bias"),
    "suffix": _set("suffix", ""),
    "web_search_options": _set("web_search_options"),
    "reasoning_effort": _set("reasoning_effort"),
    "modalities": _set("modalities", ["text"]),
    "prediction": _set("prediction"),
    "verbosity": _set("verbosity", "medium"),
    "parallel_tool_calls": _one_call_at_most,
    "images": _parts(_IMAGES),
    "audio": _parts(_AUDIO),
}
# Added after `supports`: a configured list that leaves them out still allows them.
ADDED_LATER = frozenset({"verbosity", "parallel_tool_calls"})
PARTS = frozenset({"images", "audio"})  # those that only the messages show

PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})  # that every engine has

# kind -> what its engines accept and ignore, or cannot do at all; their sources were read at the version named.
_LACKS: Mapping[str, frozenset[str]] = {
    # 0.32: the fields are not in its requests, and unknown ones are ignored with a log line.
    "vllm": frozenset({"best_of", "functions", "modalities", "prediction", "verbosity", "web_search_options"}),
    # llama-server refuses what it does not have in the first five.
    "llama.cpp": frozenset({
        "n", "best_of", "prompt_logprobs", "functions", "suffix", "modalities", "prediction", "reasoning_effort",
        "verbosity", "web_search_options", "audio",
    }),
    # 0.3.36; of tools it knows what the model's template knows.
    "llama-cpp-python": frozenset({
        "n", "best_of", "prompt_logprobs", "functions", "suffix", "modalities", "prediction", "reasoning_effort",
        "verbosity", "parallel_tool_calls", "web_search_options", "audio",
    }),
    # Ollama's page on its OpenAI API.
    "ollama": frozenset({
        "n", "best_of", "echo", "logit_bias", "prompt_logprobs", "tool_choice", "functions", "modalities",
        "prediction", "verbosity", "parallel_tool_calls", "audio", "web_search_options",
    }),
    "onnx": frozenset({
        "best_of", "prompt_logprobs", "response_format", "tools", "tool_choice", "functions", "suffix", "modalities",
        "prediction", "reasoning_effort", "verbosity", "web_search_options", "images", "audio",
    }),
}  # fmt: skip
APIS = {"/v1/responses": "responses", "/v1/messages": "messages"}  # that some have: path -> name in `supports`


def of_kind(kind: str) -> frozenset[str]:
    """The features of a kind of engine; all of them where the kind is not known, whose engine speaks for itself."""
    return frozenset(FEATURES.keys() - _LACKS.get(kind, frozenset()))


def of_template(features: frozenset[str], template: str) -> frozenset[str]:
    """Those of an engine that gives tools to the model's chat template and nowhere else: "" for one not known."""
    return features if not template or "tools" in template else features - {"tools", "tool_choice"}


def of_transformers(folder: Path, config: Mapping[str, Any]) -> frozenset[str]:
    """The features of a model on `transformers serve`, which ignores what is not here with a log line (5.23's source).

    `config` is the model's config.json.
    """
    features = {"frequency_penalty", "logit_bias", "suffix"}
    if "vision_config" in config:
        features.add("images")
    if "audio_config" in config:
        features.add("audio")
    template = folder / "chat_template.jinja"
    text = template.read_text("utf-8") if template.is_file() else ""
    if "tools" in text or not folder.is_dir():
        features.add("tools")
    return frozenset(features)
