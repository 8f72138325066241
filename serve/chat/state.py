"""Reading, deleting and cancelling responses, passed on to the engine that stores them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from serve.chat.admission import admit
from serve.chat.choose import choose, named
from serve.chat.keys import ANYBODY, known
from serve.chat.record import Record, Selection
from serve.chat.reply import pass_on
from serve.chat.service import Service, probe, send
from serve.chat.stored import shared
from serve.dialects import openai, openai_responses
from serve.engine.fields import refuse_stored
from serve.errors import BadRequest, NotFound
from serve.http.call import Call

# An id and a known suffix: nothing else may reach the engine's other paths.
_PATH = re.compile(r"/v1/responses/[A-Za-z0-9_-]{1,200}(?P<rest>(?:/cancel|/input_items)?)")
_BODY = 2**16  # bytes; these requests say nothing in theirs
BELOW = openai_responses.path + "/*"  # how a table of lines names these paths
ASKED = {"GET": ("", "/input_items"), "DELETE": ("",), "POST": ("/cancel",)}  # method -> how its paths end


def kept(method: str) -> Callable[[Service, Call, Record], Awaitable[None]]:
    """The line of a request about a stored response, by one of the methods of `ASKED`.

    The engine is that of the request's policy (X-Trimtab-Policy, the key's default or the server's).
    """

    async def line(service: Service, call: Call, record: Record) -> None:
        await _ask(service, call, record, method)

    return line


async def _ask(service: Service, call: Call, record: Record, method: str) -> None:
    """Raises NotFound for any other path, and BadRequest if the engine stores no responses."""
    config, path = service.config, call.path
    found = _PATH.fullmatch(path)
    # One label for all ids, and one for what is no such path: whoever has no key could fill the metrics with others.
    record.path = BELOW if found is None else f"{openai_responses.path}/{{id}}{found['rest']}"
    record.caller = caller = known(config.keys, openai.bearer(call.headers)) if config.keys else ANYBODY
    if found is None or found["rest"] not in ASKED[method]:
        raise NotFound(f"no path {method} {path}", code="path_not_found")
    if (question := admit(service, call, record)) is not None:
        await question
    policy, _ = choose(config, caller, "", named(call.headers), {})
    engine = service.engines[policy.engine]
    record.selection = Selection(policy, engine.spec.name, "")
    if shared(config, engine):
        refuse_stored("previous_response_id", path, engine.spec.fields_pass, engine.spec.name)
    engine.require_ready()
    body = await call.read(_BODY, json=False)
    with call:  # that is, while the client stays
        if engine.must_probe(openai_responses.path):
            await probe(service, call, engine, openai_responses.path)
        if not engine.speaks(openai_responses.path):
            raise BadRequest(
                f"engine {engine.spec.name!r} has no /v1/responses, so it stores no responses",
                code="not_translatable", param="id",
            )  # fmt: skip
        with await send(service, call, engine, path, body, method=method) as upstream:
            await pass_on(config, call, record.answer, engine, upstream, openai_responses, whole=False)
