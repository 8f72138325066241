"""The rewriters of one worker: what asks their engines, and what each remembers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import msgspec

from prompt_opt.rewriter.breaker import Breaker
from prompt_opt.rewriter.cache import RewriteCache
from prompt_opt.rewriter.calls import PromptRefused, Rewriting
from prompt_opt.rewriter.settings import rewriter
from serve.chat.salt import on_behalf
from serve.config import ConfigError, RewriterSpec
from serve.dialects.openai_chat import events
from serve.dialects.surrogates import restore
from serve.dialects.wire import NOT_JSON
from serve.engine.live import LiveEngine
from serve.engine.relay import Relay
from serve.engine.upstream import UpstreamError
from serve.observe.tracing import stage_asks

if TYPE_CHECKING:
    from prompt_opt.gate.scorer import Scorer
_REFUSALS = (400, 413, 422)  # of a prompt, which is too long, say
_ANSWER = 2**22  # bytes of a rewriter's answer

Ask = Callable[[str, str, Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


class RewriterFailed(Exception):
    """The rewriter's engine did not answer as it should; the outcome of the stage names this."""


class RewriterRefused(RewriterFailed, PromptRefused):
    """The engine refuses this prompt; it may be well all the same."""


class Rewriters:
    """Owns the rewriters that the configuration names; each is made when a policy first needs it.

    Each has a circuit breaker of its own, unless there is one for all.
    """

    def __init__(
        self,
        specs: Mapping[str, RewriterSpec],
        engines: Mapping[str, LiveEngine],
        relay: Relay,
        breaker: Breaker | None = None,
    ) -> None:
        self.specs, self._engines, self._relay, self._breaker = specs, engines, relay, breaker
        self._made: dict[str, Rewriting] = {}

    def get(self, name: str) -> Rewriting:
        """The rewriter of that name, one for all policies: they share its cache, its calls in flight, its breaker."""
        if name not in self._made:
            spec = self.specs[name]
            self._made[name] = Rewriting(
                rewriter(name, spec.engine, spec.template, spec.decoding, spec.max_tokens, model=spec.model,
                         specials=self._engines[spec.engine].specials),
                partial(ask, self._engines, self._relay),
                breaker=self._breaker,
                cache=RewriteCache(int(spec.cache_mb * 2**20)),
                similarity=_similarity(spec.embedder) if spec.embedder else None,
                additions=trained_judge() if spec.additions == "model" else None,
                judge_engine=(spec.judge or spec.engine) if spec.additions == "engine" else "",
                limit_s=spec.timeout_s,
            )  # fmt: skip
        return self._made[name]


async def ask(
    engines: Mapping[str, LiveEngine], relay: Relay, engine: str, path: str, body: Mapping[str, Any]
) -> Mapping[str, Any]:
    """One JSON call to an engine, in its dialect.

    Raises:
        RewriterFailed: it is not there, answers with an error, or with something that is no JSON object.
    """
    live = engines[engine]
    if not live.ready:
        raise RewriterFailed(f"engine {engine} is {live.state}")
    fields = {**body, "model": live.name_for(str(body.get("model", ""))) or next(iter(live.names), "")}
    if not fields["model"]:
        del fields["model"]
    if live.kind == "vllm" and (own := on_behalf.get()):
        fields["cache_salt"] = own
    if "n" not in live.supports and fields.get("n", 1) > 1:
        fields["n"] = 1  # fewer samples to choose from; the detail of the outcome says how many were offered
    headers = {**live.headers(), "content-type": "application/json"}
    adapted = live.adapt(fields)
    if live.streams_always:
        adapted["stream"] = True  # or it writes on after we have given up
    try:
        with stage_asks("bpo", engine, path, str(fields.get("model", ""))) as traced:
            upstream = await live.post(relay, path, headers | traced, restore(msgspec.json.encode(adapted)))
            upstream.decode()
            answer = await upstream.read(_ANSWER)
    except UpstreamError as error:
        raise RewriterFailed(f"engine {engine}: {error}") from error
    if upstream.status in _REFUSALS:
        raise RewriterRefused(f"engine {engine} answered {upstream.status}")
    if upstream.status != 200:
        raise RewriterFailed(f"engine {engine} answered {upstream.status}")
    try:
        if "text/event-stream" in upstream.headers.get("content-type", ""):
            return _whole(answer)
        decoded: Mapping[str, Any] = msgspec.json.decode(answer, type=dict[str, Any])
    except NOT_JSON as error:
        raise RewriterFailed(f"engine {engine} answered with no JSON object") from error
    return decoded


def _whole(body: bytes) -> dict[str, Any]:
    """The answer that a stream of one choice's pieces adds up to, in both shapes."""
    text, ended = events.text(body, stream=True) or "", events.finish_reason(body)
    return {"choices": [{"text": text, "message": {"content": text}, "finish_reason": ended}] if ended else []}


def _similarity(name: str) -> Callable[[str, str], float]:
    from retrieval.embedding.embedder import load

    embedder = load(name)

    def similarity(one: str, other: str) -> float:
        """Cosine of the two texts' embeddings."""
        vectors = embedder.queries([one, other])
        return float(vectors[0] @ vectors[1])

    return similarity


@cache
def trained_judge() -> Scorer:
    """The gate's trained model with its embedder; one for all rewriters of a process.

    Raises:
        ConfigError: the embedder does not run or cannot be kept here, or the model was trained on another one.
    """
    from prompt_opt.gate.scorer import EMBEDDER, LAYER, MOST, Scorer
    from retrieval.embedding.middle import Middle

    try:
        return Scorer(Middle(EMBEDDER, LAYER, most=MOST))
    except (OSError, ValueError) as error:
        raise ConfigError(f'additions = "model": {error}') from None
