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
    "reasoning_effort": _set("reasoning_effort"),
    "modalities": _set("modalities", ["text"]),
    "prediction": _set("prediction"),
    "images": _parts(_IMAGES),
    "audio": _parts(_AUDIO),
}
PARTS = frozenset({"images", "audio"})  # those that only the messages show

PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})  # that every engine has
APIS = {"/v1/responses": "responses", "/v1/messages": "messages"}  # that some have: path -> name in `supports`


def of_transformers(folder: Path, config: Mapping[str, Any]) -> frozenset[str]:
    """The features of a model on `transformers serve`, which ignores what is not here with a log line (5.23's source).

    `config` is the model's config.json.
    """
    features = set()
    if "vision_config" in config:
        features.add("images")
    if "audio_config" in config:
        features.add("audio")
    template = folder / "chat_template.jinja"
    text = template.read_text("utf-8") if template.is_file() else ""
    if "tools" in text or not folder.is_dir():
        features.add("tools")
    return frozenset(features)
