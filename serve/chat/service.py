"""What a request needs of its worker, and the one way to an engine."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from prompt_opt.core import Stage
from serve import metrics
from serve.chat.indexes import Indexes
from serve.chat.recorder import Recorder
from serve.config import Config
from serve.engine.features import APIS
from serve.engine.live import LiveEngine
from serve.engine.pool import Down
from serve.engine.relay import Relay
from serve.engine.request_head import Written
from serve.engine.upstream import Refused, TimedOut, Upstream, UpstreamError, unreached
from serve.errors import ApiError, Unavailable, UpstreamFailed
from serve.http.call import Call
from serve.limits.limiter import Limiter
from serve.limits.turns import Turns
from serve.observe.tracing import Tracing
from serve.store.traces import Traces

log = logging.getLogger("trimtab.engine")
_TOLD = (404, 405, 501)  # answers to a probe that say there is no such path
_UNTOLD = (401, 403, 407, 408, 429, 502, 503, 504)  # answers that say nothing about the path
REPORTED = "the engine sent an error in its answer"


@dataclass(frozen=True, slots=True)
class Service:
    """What a request needs of its worker; replaced as a whole on reload, so a request keeps the one it began with."""

    config: Config
    engines: Mapping[str, LiveEngine]
    stages: Mapping[str, tuple[Stage, ...]]  # by policy
    relay: Relay
    traces: Traces
    indexes: Indexes
    limiter: Limiter | None = None  # None: nothing is limited
    turns: Turns = field(default_factory=lambda: Turns(32 * 2**20))
    tracing: Tracing | None = None
    recorder: Recorder | None = None  # None: requests have no entries in the account


async def send(
    service: Service,
    call: Call,
    engine: LiveEngine,
    path: str,
    body: bytes,
    prefix: str = "",
    *,
    own: bool = True,
    method: str = "POST",
    model: str = "",
) -> Upstream:
    """Send to the engine; an UpstreamError becomes an answer for the client.

    So do answers that are not for the client: a redirect, which would lead it (and its key) around us, a word on our
    own API key, parts of which engines like to quote, and a status that is none. `prefix` names the constant part of
    the prompt, for an engine that is several. The client's own credentials go along only to its `own` engine, and only
    where no keys are configured.
    """
    headers: Mapping[str, str] = _headers(service, call, engine, own=own)
    # A query of the client's API (Anthropic's `beta`) does not belong on the path of the translated request.
    query = "" if call.path in APIS and path != call.path else call.query.decode("latin-1")
    target = path + (f"?{query}" if query else "")
    if call.turn is not None:
        call.end_turn()
    if call.span is not None:
        headers = {**headers, **call.span.ask(engine.spec.name, path, model)}
    try:
        if method == "POST":
            upstream = await engine.post(service.relay, target, headers, body, prefix)
        else:
            upstream = await engine.request(service.relay, method, target, headers)
    except UpstreamError as error:
        if call.span is not None:
            call.span.failed(type(error).__name__)
        raise failed(engine, error) from error
    if call.span is not None:
        call.span.answered(upstream.status)
    if upstream.coded:
        upstream.decode()
    if upstream.status < 300:
        return upstream
    if upstream.status < 400:
        why = f"It redirects ({upstream.status}): configure its final URL."
    elif upstream.status == 401 and engine.key is not None:
        why = "It refuses the API key that this server has for it."
    elif upstream.status > 599:
        why = f"It answered {upstream.status}, which is no status of HTTP."
    else:
        return upstream
    upstream.abort()
    raise failed(engine, UpstreamError(message=why))


def _headers(service: Service, call: Call, engine: LiveEngine, *, own: bool) -> Written:
    """What the engine gets of the client's headers: the same for all requests of a connection with the same ones."""
    key = engine, own and not service.config.keys
    made = call.memo.get(key)
    if made is None:
        made = call.memo[key] = Written(engine.headers(call.headers, anonymous=key[1]))
    return cast(Written, made)


async def probe(service: Service, call: Call, engine: LiveEngine, path: str, *, own: bool = True) -> None:
    """Learn whether the engine has this path by sending an empty request, which every API rejects.

    If the engine does not answer or refuses the key, nothing is learned; the client's request will report the problem.
    """
    if not engine.must_probe(path):
        return
    headers = engine.headers(call.headers, anonymous=own and not service.config.keys)
    try:
        upstream = await engine.post(service.relay, path, headers, b"{}")
        with upstream:
            await upstream.done()
    except UpstreamError as error:
        log.warning("engine %s: %s could not be probed: %s (%r)", engine.spec.name, path, error, error.cause)
        return
    if upstream.status not in _UNTOLD:
        page = upstream.media == "text/html"  # of a web server that serves one for every path
        engine.learn_api(path, present=upstream.status not in _TOLD and not page)


def failed(engine: LiveEngine, error: UpstreamError) -> ApiError:
    """What the client is told of an engine that did not answer as it should; the cause is logged and counted."""
    metrics.upstream_errors.labels(engine.spec.name, type(error).__name__).inc()
    log.warning("engine %s: %s (%r)", engine.spec.name, error, error.cause)
    if engine.contact is not None:
        engine.contact.suspect()
    if isinstance(error, Down):
        message = f"engine {engine.spec.name!r}: none of its {len(engine.spec.urls)} URLs answers; try again soon"
        return Unavailable(message, code="engine_not_ready")
    if isinstance(error, Refused) and engine.spec.launched:
        return Unavailable(f"engine {engine.spec.name!r} is down and being started again", code="engine_not_ready")
    where = f" at {engine.url}" if engine.named and engine.contact else ""
    failure = UpstreamFailed(f"engine {engine.spec.name!r}{where}: {error}", timed_out=isinstance(error, TimedOut))
    failure.unserved = unreached(error) or engine.spec.idempotent
    return failure


def reported(engine: LiveEngine, message: str) -> ApiError:
    """An error that the engine itself put into its answer. Its words are for the client, not for our log."""
    metrics.upstream_errors.labels(engine.spec.name, "Said").inc()
    log.warning("engine %s: sent an error in its answer", engine.spec.name)
    error = UpstreamFailed(f"engine {engine.spec.name!r}: {message}")
    error.brief = REPORTED
    return error
