"""OpenTelemetry: a request as spans, and its measures, by the semantic conventions for generative AI.

    POST /v1/chat/completions      server; child of the client's traceparent
    ├─ stage urial                 internal, one each; all begin together
    ├─ stage bpo
    │  └─ chat rewriter-model      client; a stage's own call
    └─ chat model                  client; the engine gets its traceparent

Spans leave in batches from a thread of the exporter's. Nothing of it is loaded unless an endpoint is set.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from retrieval.extra import install

if TYPE_CHECKING:
    from opentelemetry.metrics import Histogram
    from opentelemetry.trace import Span, Tracer

log = logging.getLogger("trimtab.tracing")

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_OPERATIONS = {
    "/v1/chat/completions": "chat", "/v1/messages": "chat", "/v1/responses": "chat",
    "/v1/completions": "text_completion", "/v1/embeddings": "embeddings",
}  # fmt: skip
_TOKENS = ("prompt_tokens", "input"), ("completion_tokens", "output")
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_COUNTS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
# The request that the running task works for; a stage's own tasks inherit it.
current: ContextVar[RequestSpan | None] = ContextVar("current", default=None)

Attributes = Mapping[str, str | int | float | bool]


class Step(NamedTuple):
    """What a stage did."""

    name: str
    status: str
    reason: str
    ms: float


def wanted(endpoint: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the configuration or the environment names a collector."""
    off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    return not off and bool(endpoint or any(environ.get(name) for name in _ENDPOINTS))


def start(endpoint: str) -> Tracing | None:
    """The tracing that is wanted; None where none is, or, with a warning, where OpenTelemetry is not installed."""
    if not wanted(endpoint):
        return None
    if find_spec("opentelemetry.sdk") is None or find_spec("opentelemetry.exporter.otlp.proto.http") is None:
        log.warning("an OTLP endpoint is set, but the extra 'otel' is not installed: %s", install("otel"))
        return None
    return Tracing(endpoint)


class Tracing:
    """One worker's way to a collector."""

    def __init__(self, endpoint: str = "") -> None:
        """`endpoint` is a collector's base URL, as in OTEL_EXPORTER_OTLP_ENDPOINT, which "" leaves it to."""
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        base = endpoint.rstrip("/")
        named = "service.name" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "") or "OTEL_SERVICE_NAME" in os.environ
        resource = Resource.create({} if named else {"service.name": "trimtab"})
        self._spans = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._spans.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{base}/v1/traces" if base else None)))
        reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{base}/v1/metrics" if base else None))
        self._measures = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
        self.tracer: Tracer = self._spans.get_tracer("trimtab")
        meter = self._measures.get_meter("trimtab")

        def histogram(name: str, unit: str, bounds: Sequence[float]) -> Histogram:
            return meter.create_histogram(name, unit, explicit_bucket_boundaries_advisory=list(bounds))

        self.tokens = histogram("gen_ai.client.token.usage", "{token}", _COUNTS)
        self.duration = histogram("gen_ai.client.operation.duration", "s", _SECONDS)
        self.first = histogram("gen_ai.client.operation.time_to_first_chunk", "s", _SECONDS)

    def begin(self, method: str, path: str, headers: Iterable[tuple[bytes, bytes]]) -> RequestSpan:
        """A request has come."""
        return RequestSpan(self, method, path, headers)

    def close(self) -> None:
        """Send what is left, for a few seconds at most."""
        self._spans.force_flush(3000)
        self._spans.shutdown()
        self._measures.shutdown(3000)


class RequestSpan:
    """One request's spans."""

    def __init__(self, owner: Tracing, method: str, path: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._owner, self._method, self._path = owner, method, path
        self._carry = TraceContextTextMapPropagator()
        carried = {n.decode(): v.decode("latin-1") for n, v in headers if n in (b"traceparent", b"tracestate")}
        parent = self._carry.extract(carried)
        attributes: Attributes = {"http.request.method": method, "url.path": path}
        self._span = owner.tracer.start_span(f"{method} {path}", parent, SpanKind.SERVER, attributes)
        self._stages: dict[str, Span] = {}
        self._aligning = 0  # when the stages began, in nanoseconds
        self._call: Span | None = None
        self._asked = 0.0
        self._about: dict[str, str] = {}  # the engine call, in the terms of its measures

    def aligning(self) -> None:
        """The stages begin."""
        self._aligning = time.time_ns()

    def ask(self, engine: str, path: str, model: str = "") -> dict[str, str]:
        """A call to an engine begins, which ends an earlier one; the headers that tell the engine of it."""
        self._end_call()
        self._call, self._about = self._client(engine, path, model, self._span)
        self._asked = time.monotonic()
        return self._headers(self._call)

    @contextmanager
    def stage_asks(self, stage: str, engine: str, path: str, model: str) -> Iterator[dict[str, str]]:
        """A stage's own call to an engine; yields the headers that tell the engine of it."""
        span, _ = self._client(engine, path, model, self._stage(stage))
        try:
            yield self._headers(span)
        except BaseException as error:
            self._fail(span, type(error).__name__)
            raise
        finally:
            span.end()

    def _headers(self, span: Span) -> dict[str, str]:
        headers: dict[str, str] = {}
        self._carry.inject(headers, _inside(span))
        return headers

    def answered(self, status: int) -> None:
        """The engine has answered the call."""
        if self._call is not None:
            self._call.set_attribute("http.response.status_code", status)
            if status >= 400:
                self._fail(self._call, str(status))

    def failed(self, why: str) -> None:
        """The engine has not."""
        if self._call is not None:
            self._fail(self._call, why)

    def end(
        self,
        status: int,
        steps: Iterable[Step],
        usage: Mapping[str, Any] | None,
        first_s: float | None,
        *,
        route: str,
        **about: str,
    ) -> None:
        """The request has ended. `route` is its path without ids; `about` are attributes of ours, in the name space
        `trimtab`."""
        self._span.set_attribute("http.route", route)
        if route != self._path:  # a name for each id would be a name for each request
            self._span.update_name(f"{self._method} {route}")
        for step in steps:
            span = self._stage(step.name)
            span.set_attribute("trimtab.stage.status", step.status)
            span.set_attribute("trimtab.stage.reason", step.reason)
            if step.status in ("failed", "timed_out"):
                self._fail(span, step.status)
            span.end((self._aligning or time.time_ns()) + int(step.ms * 1e6))
        self._end_call(usage, first_s)
        for name, value in about.items():
            if value:
                self._span.set_attribute(f"trimtab.{name}", value)
        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self._fail(self._span, str(status))
        self._span.end()

    def _stage(self, name: str) -> Span:
        if name not in self._stages:
            begun = self._aligning or None
            tracer = self._owner.tracer
            self._stages[name] = tracer.start_span(f"stage {name}", _inside(self._span), start_time=begun)
        return self._stages[name]

    def _client(self, engine: str, path: str, model: str, parent: Span) -> tuple[Span, dict[str, str]]:
        from opentelemetry.trace import SpanKind

        operation = _OPERATIONS.get(path.partition("?")[0], path)
        about = {"gen_ai.operation.name": operation, "gen_ai.provider.name": engine}
        if model:
            about["gen_ai.request.model"] = model
        name = f"{operation} {model}".strip()
        return self._owner.tracer.start_span(name, _inside(parent), SpanKind.CLIENT, about), about

    def _end_call(self, usage: Mapping[str, Any] | None = None, first_s: float | None = None) -> None:
        if self._call is None:
            return
        for name, kind in _TOKENS:
            count = usage.get(name) if usage else None
            if isinstance(count, int) and 0 <= count < 2**53:
                self._call.set_attribute(f"gen_ai.usage.{kind}_tokens", count)
                self._owner.tokens.record(count, {**self._about, "gen_ai.token.type": kind})
        self._owner.duration.record(time.monotonic() - self._asked, self._about)
        if first_s is not None:
            self._owner.first.record(first_s, self._about)
        self._call.end()
        self._call = None

    def _fail(self, span: Span, why: str) -> None:
        from opentelemetry.trace import StatusCode

        span.set_attribute("error.type", why)
        span.set_status(StatusCode.ERROR)


def stage_asks(stage: str, engine: str, path: str, model: str) -> AbstractContextManager[dict[str, str]]:
    """A stage's call to an engine on behalf of the request that the task works for, if that is traced."""
    span = current.get()
    return nullcontext({}) if span is None else span.stage_asks(stage, engine, path, model)


def _inside(span: Span) -> Any:
    from opentelemetry.trace import set_span_in_context

    return set_span_in_context(span)
