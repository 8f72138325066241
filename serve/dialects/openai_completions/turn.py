"""A text completion's prompt as one user turn, for the base render to align."""

from __future__ import annotations

from typing import Any

import msgspec

from prompt_opt.core import Chat, Message
from serve.config import Server
from serve.dialects.wire import Raw, Request, refuse_beside, typed
from serve.errors import BadRequest

# Fields that put the prompt into the answer, or more than one text around it.
_NO_TURN = ("echo", "suffix", "prompt_logprobs", "prompt_embeds")


def chat(request: Request, limits: Server) -> Chat:
    """The prompt as a chat of one user message.

    Raises:
        BadRequest: the prompt is no single text, or the request holds what one turn has no place for.
    """
    refuse_beside(request, "input", "messages")
    for name in _NO_TURN:
        if request.value(name) not in (None, False, ""):
            raise _refused(name, f"{name} has no place in the prompt that this policy writes")
    prompt = request.value("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        prompt = prompt[0]
    if prompt is None or prompt == "":
        raise BadRequest("prompt is missing", param="prompt")
    if not isinstance(prompt, str):
        raise _refused("prompt", "this policy aligns one text: prompt must be a string, not several or token ids")
    params = as_chat(request).fields
    return Chat((Message("user", prompt),), request.model, request.stream, params)


def _refused(name: str, message: str) -> BadRequest:
    return BadRequest(message, code="no_place_in_base_render", param=name)


def as_chat(request: Request) -> Request:
    """The request's parameters under a chat completion's names: `logprobs` is a number here, a boolean there.

    Raises:
        BadRequest: `logprobs` is no number up to 20.
    """
    dropped = ("prompt", "logprobs", *_NO_TURN)
    fields = {name: raw for name, raw in request.fields.items() if name not in dropped}
    if (top := logprobs(request)) is not None:
        fields |= {"logprobs": Raw(b"true"), "top_logprobs": Raw(msgspec.json.encode(top))}
    return Request(fields, request.model, request.stream, request.options, b"", touched=True)


def logprobs(request: Request) -> int | None:
    """How many alternatives each token is to have; None where no log-probabilities are asked for.

    Raises:
        BadRequest: no number up to 20.
    """
    top: Any = typed(request.fields, "logprobs", int, None)
    if top is not None and not 0 <= top <= 20:
        raise BadRequest("logprobs must be between 0 and 20", param="logprobs")
    return top if top is None else int(top)
