"""What is remembered of a request: the response's headers, the trace and the metrics are made of it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import field
from msgspec.structs import replace

from prompt_opt.core import Advice, Chat, Outcome, Policy, Prompt, State
from prompt_opt.pipeline import digest
from serve import metrics
from serve.chat.keys import ANYBODY, Caller
from serve.chat.trail import Trail
from serve.dialects.annotation import Annotation
from serve.http.head import lines
from serve.limits.limiter import Admission
from serve.store.traces import Traces

_UNPRINTABLE = re.compile(r"[^ -~]")
_HEADER = 2048  # characters of a header of ours
_CONTENT = 2**20  # characters of a prompt, or of an answer, that a trace keeps; a longer one is left out of it


_GENERATED = (b"x-ai-generated", b"true")
_NO_ADVICE = Advice()
_NO_STATES: Mapping[str, State] = MappingProxyType({})
_NO_FIELDS: Mapping[str, msgspec.Raw] = MappingProxyType({})


def _random(size: int, at_once: int = 512) -> Iterator[str]:
    """Endless unguessable words of `size` bytes in hex, many from one question to the kernel."""
    while True:
        pool = os.urandom(size * at_once).hex()
        for i in range(0, len(pool), 2 * size):
            yield pool[i : i + 2 * size]


_words = _random(10)


def new_id() -> str:
    """A request's id, 32 hexadecimal digits: milliseconds since 1970, then 80 random bits.

    Ids of about the same time stand together, so that a table of traces grows at its end and not all over.
    """
    return (time.time_ns() // 1_000_000).to_bytes(6, "big").hex() + next(_words)


def _header(text: str) -> bytes:
    """A reason may quote anything; a header must not carry what could end it."""
    return _UNPRINTABLE.sub("?", text)[:_HEADER].encode()


@lru_cache(1024)
def _told(policy: str, fallback: str, applied: str, *, labelled: bool) -> bytes:
    """The lines of a head that most answers under a policy have in common."""
    pairs = [(b"x-trimtab-policy", _header(policy))] if policy else []
    if fallback:
        pairs.append((b"x-trimtab-engine", _header(fallback)))
    if labelled:
        pairs.append(_GENERATED)
    return lines([*pairs, (b"x-trimtab-applied", _header(applied))])


class Selection(msgspec.Struct, frozen=True):
    """What was settled before anything was done to a request."""

    policy: Policy
    engine: str
    model: str
    stream: bool = False
    content: bool = False  # keep the prompt before and after, and the answer
    asked: Mapping[str, msgspec.Raw] = _NO_FIELDS  # the request's fields, where content is kept
    fallback: bool = False  # the engine is not the policy's own


class Alignment(msgspec.Struct, frozen=True):
    """What the policy did to a request."""

    outcomes: tuple[Outcome, ...] = ()
    advice: Advice = _NO_ADVICE
    prompt: Prompt | None = None
    notes: tuple[str, ...] = ()


_NO_ALIGNMENT = Alignment()


class Answer(msgspec.Struct):
    """What came back from the engine, filled in by whoever passes it on."""

    started: float = field(default_factory=time.monotonic)  # of the request
    keep: bool = False  # the text too
    first_byte: float | None = None  # seconds after `started`
    usage: Mapping[str, Any] | None = None
    text: str | None = None  # of its first choice
    error: str = ""
    meter: Callable[[int], None] | None = None  # told of the tokens of a stream as they come

    def saw_first_byte(self) -> None:
        """Note the time, once."""
        if self.first_byte is None:
            self.first_byte = time.monotonic() - self.started


class Record(msgspec.Struct):
    """What a trace and the metrics are made of. Owned by `serve.chat.handle`: the steps return what they learned."""

    path: str
    ident: str = field(default_factory=new_id)
    caller: Caller = ANYBODY
    selection: Selection | None = None
    alignment: Alignment = _NO_ALIGNMENT
    answer: Answer = field(default_factory=Answer)
    error: str = ""
    request_id: str = ""  # the client's; "": ours is `ident`
    admission: Admission | None = None  # what its limits hold of it
    person: str = ""  # whom the request names, where requests are recorded
    trail: Trail | None = None  # from its first entry in the account on
    annotation: Annotation | None = None  # what is added to its answer
    chat: Chat | None = None  # what was asked, once it has been read
    spoken: str = ""  # the language that the request names
    labelled: bool = False  # the answer's headers say that it is generated

    def note(self, text: str) -> None:
        """Add a note to the trace."""
        self.alignment = replace(self.alignment, notes=(*self.alignment.notes, text))

    def fall_back(self, engine: str) -> None:
        """Say that a fallback of the policy serves the request."""
        assert self.selection is not None
        self.selection = replace(self.selection, engine=engine, fallback=True)

    def lines(self, status: int = 0) -> bytes:
        """The short form of the trace, which the head of every answer carries, and the label of a generated one."""
        selection, ident = self.selection, self.ident.encode()
        policy, engine = ("", "") if selection is None else (selection.policy.name, selection.engine)
        fallback = engine if selection is not None and selection.fallback else ""
        applied = ", ".join([str(outcome) for outcome in self.alignment.outcomes]) or "none"
        asked = self.request_id.encode("latin-1") if self.request_id else ident
        told = _told(policy, fallback, applied, labelled=self.labelled and status == 200)
        text = b"%sx-trimtab-trace: %s\r\nx-request-id: %s\r\n" % (told, ident, asked)
        return text if self.admission is None else text + self.admission.lines()

    def body(self, status: int) -> dict[str, Any]:
        """The whole trace."""
        selection, alignment, answer = self.selection, self.alignment, self.answer
        advice, now = alignment.advice, time.monotonic()
        states = states_of(alignment.outcomes) if alignment.outcomes else _NO_STATES
        policy = selection.policy if selection else None
        content = selection is not None and selection.content
        out: dict[str, Any] = {
            "id": self.ident,
            "request_id": self.request_id or self.ident,
            "object": "trace",
            "created": int(time.time() - (now - answer.started)),
            "path": self.path,
            "policy": policy.name if policy else None,
            "key": self.caller.name,
            "policy_digest": (digest(policy, states) if states else policy.digest) if policy else None,
            "change": (policy.change or None) if policy else None,
            "render": policy.render if policy and policy.stages else None,
            "engine": selection.engine if selection else "",
            "model": selection.model if selection else "",
            "stream": selection is not None and selection.stream,
            "stages": [_stage(o, content) for o in alignment.outcomes] if alignment.outcomes else [],
            "notes": list(alignment.notes),
            "principles": _principles(advice) if advice.pinned or advice.principles else [],
            "indexes": {name: {"revision": r, "digest": d} for name, (r, d) in states.items()} if states else {},
            "status": status,
            "error": self.error or answer.error or None,
            "usage": answer.usage,
            "first_byte_ms": None if answer.first_byte is None else _ms(answer.first_byte),
            "total_ms": _ms(now - answer.started),
        }
        if self.annotation is not None and (cited := self.annotation.citations(texts=content)) is not None:
            out["citations"] = cited
        if selection is not None and selection.content:
            _keep_content(out, selection.asked, alignment.prompt, answer.text)
        return out


def _ms(seconds: float) -> float:
    """Milliseconds, to the microsecond; `round` takes ten times as long."""
    return int(seconds * 1e6) / 1000


def states_of(outcomes: Sequence[Outcome]) -> Mapping[str, State]:
    """The states of all indexes that the stages have read."""
    found = [outcome.states for outcome in outcomes if outcome.states]
    if len(found) < 2:
        return found[0] if found else _NO_STATES
    return {name: state for states in found for name, state in states.items()}


def _keep_content(
    out: dict[str, Any], asked: Mapping[str, msgspec.Raw], prompt: Prompt | None, answer: str | None
) -> None:
    """Add what was asked, what was sent and what came back; all of it, or none where it is too much."""
    spans = prompt.spans if prompt is not None else ()
    sizes = sum(map(len, map(bytes, asked.values()))), sum(len(s.text) for s in spans), len(answer or "")
    if max(sizes) > _CONTENT:
        out["notes"].append(f"content left out: {max(sizes)} characters")
        return
    # Copies, since a Raw keeps the whole body alive; as they came, since nothing here needs to read them.
    fields = {name: raw.copy() for name, raw in asked.items()}
    out["before"] = fields.pop("messages", None)
    out["params"] = {name: raw for name, raw in fields.items() if name not in ("model", "stream")}
    out["answer"] = answer
    if prompt is not None:
        messages = prompt.messages
        out["after"] = prompt.text if messages is None else [msgspec.Raw(m.json()) for m in messages]
        out["spans"] = [{"origin": s.origin, "text": s.text, "message": s.message} for s in spans]


def _principles(advice: Advice) -> list[dict[str, Any]]:
    return [
        {
            "id": p.id,
            "index": p.index,
            "title": p.title,
            "source": p.source,
            "url": p.url,
            "region": p.region,
            "score": p.score,
            "dense": p.dense,
            "lexical": p.lexical,
            "pinned": pin,
        }
        for pin, some in ((True, advice.pinned), (False, advice.principles))
        for p in some
    ]


def _stage(outcome: Outcome, content: bool) -> dict[str, Any]:
    """A stage's part of the trace; texts only where content is kept."""
    row = {"stage": outcome.stage, "status": outcome.status, "reason": outcome.reason, "ms": outcome.ms}
    if not outcome.detail:
        return row
    detail = dict(outcome.detail)
    texts = detail.pop("content", None)
    if texts is not None and content:
        detail |= texts
        if isinstance(texts.get("after"), str) and isinstance(texts.get("before"), str):
            from prompt_opt.gate.diff import hinted, word_diff

            both = texts["before"], texts["after"]

            hint = detail.get("mode") == "complement"
            detail["diff"] = hinted(*both) if hint else word_diff(*both)
    return {**row, "detail": detail} if detail else row


def account(record: Record, status: int, traces: Traces) -> None:
    """Count a request, and keep its trace."""
    policy = record.selection.policy.name if record.selection else ""
    metrics.answered(record.path, policy, status).inc()
    for outcome in record.alignment.outcomes:
        metrics.staged(outcome.stage, outcome.status).inc()
        metrics.took(outcome.stage).observe(outcome.ms / 1000)
        if "rewriter" in outcome.detail:
            detail = outcome.detail
            cached = "yes" if detail["cached"] else "no"
            metrics.rewrites.labels(detail["rewriter"], detail["rule"] or "accepted", cached).inc()
    answer = record.answer
    if answer.first_byte is not None:
        metrics.waited(policy).observe(answer.first_byte)
    if usage := answer.usage:
        for kind, name in (("prompt", "prompt_tokens"), ("completion", "completion_tokens")):
            count = usage.get(name)
            if isinstance(count, int) and 0 < count < 2**53:  # whatever an engine may say there
                metrics.counted(policy, kind).inc(count)
    dropped = traces.dropped
    traces.put(record.ident, record.caller.tenant, record.body(status))
    if traces.dropped > dropped:
        metrics.traces_dropped.inc()
