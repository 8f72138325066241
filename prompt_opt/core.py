"""The nouns that a request is made of, from the parsed chat to the prompt that goes upstream.

    Chat --stages--> Advice --lay_out--> Prompt --engine--> answer

Everything here is immutable data; behaviour lives in the stages, the pipeline and the layout. What a request is made of
piece by piece is a `msgspec.Struct`, which is made, compared and hashed in a tenth of a dataclass's time.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import msgspec

Render = Literal["chat", "base"]
Form = Literal["fenced", "open", "spaced"]
Frame = Literal["quoted", "quoted-zh", "opo-en", "opo-zh", "plain"]
Cite = Literal["", "marks"]
State = tuple[int, str]  # of an index: its revision, and a hash of all that is in it
Status = Literal["applied", "skipped", "timed_out", "failed"]
# Where a piece of the prompt comes from; the trace and the page show it.
Origin = Literal["profile", "pinned", "system", "history", "retrieved", "user", "rewrite"]
ADDED: tuple[Origin, ...] = ("profile", "pinned", "retrieved", "rewrite")  # by a policy, not by the client
SYSTEM_ROLES = ("system", "developer")


class Message(msgspec.Struct, frozen=True):
    """One chat message.

    `raw` is the client's own JSON for it. A message that no stage edits goes upstream as these very bytes, so
    nothing in it is lost: unknown fields, key order, number formats. A message of ours has none.
    """

    role: str
    content: str | list[dict[str, Any]] | None
    tool: bool = False  # it calls a tool or carries a tool's result
    raw: bytes | None = None
    bare: bool = False  # role and content, a string, are all that `raw` holds

    @property
    def text(self) -> str:
        """The text of the message, its text parts joined by a newline; images and the like have none."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(str(part["text"]) for part in self.content or () if isinstance(part.get("text"), str))

    @property
    def media(self) -> tuple[str, ...]:
        """The types of the parts that are not text ("image_url", "input_audio"…)."""
        if not isinstance(self.content, list):
            return ()
        return tuple(str(p.get("type", "part")) for p in self.content if not isinstance(p.get("text"), str))

    def json(self) -> bytes:
        """The message as JSON: the client's bytes where it has some."""
        return self.raw if self.raw is not None else msgspec.json.encode({"role": self.role, "content": self.content})

    def with_content(self, content: str | list[dict[str, Any]]) -> Message:
        """This message with another content.

        Its other fields, and the parts of its own content that `content` holds as well, stay the client's own bytes.
        """
        if self.bare and isinstance(content, str):
            raw = msgspec.json.encode({"role": self.role, "content": content})
            return Message(self.role, content, self.tool, raw, bare=True)
        fields = msgspec.json.decode(self.raw, type=dict[str, msgspec.Raw]) if self.raw else {}
        fields.setdefault("role", msgspec.Raw(msgspec.json.encode(self.role)))
        own: dict[int, msgspec.Raw] = {}
        if isinstance(self.content, list) and self.raw:
            parts = msgspec.json.decode(fields["content"], type=list[msgspec.Raw])
            own = {id(part): raw for part, raw in zip(self.content, parts, strict=True)}
        kept = content if isinstance(content, str) else [own.get(id(part), part) for part in content]
        fields["content"] = msgspec.Raw(msgspec.json.encode(kept))
        return Message(self.role, content, self.tool, msgspec.json.encode(fields))


class Chat(msgspec.Struct, frozen=True):
    """A request for a chat completion. `params` holds every other body field as the client's own JSON bytes."""

    messages: tuple[Message, ...]
    model: str = ""
    stream: bool = False
    params: Mapping[str, msgspec.Raw] = msgspec.field(default_factory=dict)
    continued: bool = False  # the engine holds earlier turns, which `messages` go on from


class Exemplar(msgspec.Struct, frozen=True):
    """One constant, restyled example of URIAL (arXiv 2312.01552, section 3.2).

    `raw` is the example's exact text in a prompt file of the original project, or "" where the layout writes it.
    """

    user: str
    assistant: str
    raw: str = ""


@dataclass(frozen=True, slots=True)
class Principle:
    """A law, rule or norm (OPO, arXiv 2312.15907): text to quote, and where it comes from."""

    id: str
    text: str
    title: str = ""
    source: str = ""
    region: str = ""
    score: float = 0.0  # fused, 0 to 1
    url: str = ""
    dense: float | None = None  # cosine, where the dense side found it
    lexical: float | None = None  # BM25, where the lexical side found it
    index: str = ""  # where it was found

    @property
    def reference(self) -> str:
        """INDEX/ID, as settings and refusals name it."""
        return f"{self.index}/{self.id}" if self.index else self.id


@dataclass(frozen=True, slots=True)
class Advice:
    """What stages contribute to a prompt; merged by `merge`, placed by `layout.lay_out`."""

    instruction: str = ""
    exemplars: tuple[Exemplar, ...] = ()
    pinned: tuple[Principle, ...] = ()
    principles: tuple[Principle, ...] = ()
    frame: Frame = "quoted"  # how `principles` are quoted
    cite: Cite = ""  # how the answer is to cite them and `pinned`
    rewrite: str | None = None  # the last user turn, rewritten
    complement: str | None = None  # a hint after the last user turn
    demos: tuple[Exemplar, ...] = ()  # exemplars made for this request, right before the last user turn
    note: str = ""  # what the outcome says in brackets: applied(3)
    states: Mapping[str, State] = field(default_factory=dict)  # of the indexes that were read
    detail: Mapping[str, Any] = field(default_factory=dict)  # for the trace; texts only under "content"


_NO_ADVICE = Advice()


class Outcome(msgspec.Struct, frozen=True, eq=False):
    """What became of a stage. `str()` is its entry in the X-Trimtab-Applied header.

    `gave` is its advice, against which a context that is too short is held. Equal are outcomes that say the same of the
    stage, whatever it gave.
    """

    stage: str
    status: Status
    reason: str = ""
    ms: float = 0.0
    gave: Advice = _NO_ADVICE
    detail: Mapping[str, Any] = msgspec.field(default_factory=dict)
    states: Mapping[str, State] = msgspec.field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Outcome) and self._told() == other._told()

    def __hash__(self) -> int:
        return hash(self._told())

    def _told(self) -> tuple[str, Status, str, float]:
        return self.stage, self.status, self.reason, self.ms

    def __str__(self) -> str:
        return f"{self.stage}={self.status}" + (f"({self.reason})" if self.reason else "")


class Span(msgspec.Struct, frozen=True):
    """A piece of the prompt and its origin. In the base render the prompt is the spans' texts, joined."""

    origin: Origin
    text: str
    message: int | None = None  # index into Prompt.messages, in the chat render


class Prompt(msgspec.Struct, frozen=True):
    """What goes upstream: `messages` for /v1/chat/completions, or `text` for /v1/completions.

    `stops` are strings that end a base model's answer; each begins at a line start, so begins with "\\n". `fence` is
    the fence that the open answer stands in, "" for none. `notes` say what safety changed ("history: marker escaped").
    """

    spans: tuple[Span, ...]
    messages: tuple[Message, ...] | None = None
    stops: tuple[str, ...] = ()
    fence: str = ""
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str | None:
        """The base render's text; None for a chat."""
        return None if self.messages is not None else "".join([span.text for span in self.spans])


@dataclass(frozen=True, slots=True)
class Profile:
    """How an untuned model is shown what a conversation looks like: URIAL's constant part.

    `instruction` says how to behave (both renders), `framing` explains the markers (base render only). `fence` is the
    shortest fence around a turn; `form` is the template family: "fenced", or without a fence "open" ("urial_v6" of
    the original) and "spaced" ("urial_v5"). `preamble` is the exact text before the first exemplar in a file of the
    original, which then replaces framing and instruction in the base render. `decoding` are request fields for the
    base render; a client's own values override them.
    """

    name: str
    framing: str = ""
    instruction: str = ""
    exemplars: tuple[Exemplar, ...] = ()
    user_marker: str = "## Question"
    assistant_marker: str = "## Answer"
    fence: str = "````"
    form: Form = "fenced"
    decoding: Mapping[str, Any] = field(default_factory=dict)
    preamble: str = ""
    source: str = ""

    def __hash__(self) -> int:  # it is a key of every request, and few have the same name
        return hash((self.name, self.fence, self.instruction))


@dataclass(frozen=True, slots=True)
class Policy:
    """What is done to a request, by name. Immutable; `digest` is the hash of its whole resolved content."""

    name: str
    engine: str = "main"
    stages: tuple[str, ...] = ()
    render: Render = "chat"
    profile: Profile = field(default_factory=lambda: Profile("plain"))
    budget_ms: int = 2000
    on_error: Literal["skip", "fail"] = "skip"
    options: Mapping[str, Any] = field(default_factory=dict)  # stage -> its module's `Options`
    fallback: tuple[str, ...] = ()  # engines to try, in order, where the policy's own does not serve a request
    cache_salt: Literal["none", "tenant"] = "none"  # whom a vLLM engine's prefix cache keeps apart
    elsewhere: Literal["refuse", "raw"] = "refuse"  # a request on a path that cannot carry the policy
    optional: tuple[str, ...] = ()  # stages that any caller may skip, request options that any caller may set
    digest: str = ""
    change: str = ""  # the change that put a managed policy in force; "": it stands in the file, or is built in


def estimate(text: str) -> int:
    """Tokens of a text where no tokenizer is known: 3 bytes each, which is on the safe side."""
    return -(-len(text.encode()) // 3)


class Context(msgspec.Struct, frozen=True):
    """What a stage may know of the request beside the chat."""

    policy: Policy
    tenant: str = ""
    options: Mapping[str, Any] = msgspec.field(default_factory=dict)  # the request's `trimtab` field
    deadline: float = 0.0  # time.monotonic() seconds
    count: Callable[[str], int] = estimate  # tokens of a text, by the engine's tokenizer where it is known
    ask: Callable[[str, Prompt], Awaitable[str]] | None = None  # (engine, prompt) -> answer text
    key: str = ""  # the id of the caller's API key (never the secret)

    @property
    def remaining(self) -> float:
        """Seconds left of the policy's budget."""
        return max(0.0, self.deadline - time.monotonic())


class Indexes(Protocol):
    """The indexes that the configuration names (`retrieval.search.index.Index`, not imported here)."""

    def opened(self, name: str) -> Any | None:
        """The index, if it is open. Never blocks."""

    def open(self, name: str) -> Any:
        """The index, opened if need be. Blocks."""


@dataclass(frozen=True, slots=True)
class Supplies:
    """What stages are made of beside their policy. A stage whose supply is missing cannot be built."""

    indexes: Indexes | None = None
    rewriting: Callable[[str], Any] | None = None  # name of a rewriter -> prompt_opt.rewriter.calls.Rewriting


class Stage(Protocol):
    """One way of aligning a chat. It reads the original chat, never another stage's advice.

    An `instant` one neither waits nor fails, and is not timed. Without a `required` one no request goes on, whatever
    the policy's on_error.
    """

    name: str
    instant: bool
    required: bool

    async def __call__(self, chat: Chat, ctx: Context) -> Advice:
        """What the stage contributes to this chat.

        Raises:
            Skip: it has nothing to do here, for the reason that the exception carries.
        """
        ...

    async def constant(self, ctx: Context) -> Advice | None:
        """The part of its advice that no request changes, which warms an engine's prefix cache; None for none."""


class Forbidden(Exception):
    """A rule that was found forbids the request."""

    def __init__(self, rule: Principle) -> None:
        super().__init__(rule.id)
        self.rule = rule


class Skip(Exception):
    """A stage has nothing to do here; the message is the reason that the response and the trace give."""

    def __init__(
        self, reason: str = "", detail: Mapping[str, Any] | None = None, states: Mapping[str, State] | None = None
    ) -> None:
        super().__init__(reason)
        self.detail = detail or {}
        self.states = states or {}
