"""What a wire API is to this server: a `Dialect` for the client's side, a `Reader` for the engine's.

    client's body --Dialect--> Chat, parameters ... engine's answer --Reader--> Piece --Writer--> client's shape

An engine that speaks the client's dialect gets the client's own bytes, edited, and its answer is passed on. Any other
gets a chat completion, or in the base render a text completion; a `Reader` takes its answer apart and the dialect's
`Writer` puts it together again. A new dialect is a package that has the names of this Protocol, and one row in
`serve.api.routes`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from prompt_opt.core import Chat, Message, Prompt
from serve.config import Server
from serve.dialects.annotation import Annotation, Editor
from serve.dialects.wire import Request
from serve.errors import ApiError

Headers = Sequence[tuple[bytes, bytes]]  # names in lower case


class ToolCall(NamedTuple):
    """A tool call, or one piece of it: the arguments of its pieces join to one JSON text."""

    number: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class Piece(NamedTuple):
    """What one event adds to a choice of the answer; `finish`, if set, ends the choice."""

    choice: int
    text: str = ""
    finish: str = ""  # "stop", "length", "tool_calls" or "content_filter"
    logprobs: Sequence[Mapping[str, Any]] = ()  # a chat completion's entries, one a token
    reasoning: str = ""
    refusal: str = ""
    tools: Sequence[ToolCall] = ()
    stop: str = ""  # with `finish`: the client's stop string that ended the choice, where the engine tells


@dataclass(slots=True)
class Choice:
    """One choice of an answer, as far as it has come."""

    texts: list[str] = field(default_factory=list)
    finish: str = ""
    logprobs: list[Mapping[str, Any]] = field(default_factory=list)
    reasoning: str = ""
    refusal: str = ""
    tools: list[ToolCall] = field(default_factory=list)  # complete, in order
    stop: str = ""  # the client's stop string that ended it, where that is known

    @property
    def text(self) -> str:
        """All text that was passed on."""
        return "".join(self.texts)


class BadEvent(ValueError):
    """The engine sent something that is no event of its API; the message says what."""


class Reader(Protocol):
    """Takes an engine's answer apart. One per answer."""

    choices: Sequence[Choice]
    usage: Mapping[str, Any] | None  # in a chat completion's terms
    error: Any  # what the engine reported inside its answer
    meta: Mapping[str, Any]  # what it says of itself: "system_fingerprint", "service_tier"

    @property
    def complete(self) -> bool:
        """Every choice has ended."""

    @property
    def finished(self) -> bool:
        """Nothing more is wanted of the engine."""

    @property
    def cut_off(self) -> bool:
        """Every choice has ended, and the engine goes on all the same."""

    def feed(self, data: bytes) -> list[Piece]:
        """A whole answer or the data of one event. Raises BadEvent."""

    def close(self) -> list[Piece]:
        """The end of the engine's answer: what was held back."""


def described(fingerprint: Any, tier: Any) -> dict[str, Any]:
    """A reader's `meta` of what the engine sent."""
    both = {"system_fingerprint": fingerprint, "service_tier": tier}
    return {name: value for name, value in both.items() if value is not None}


class Writer(Protocol):
    """Writes one answer in the client's shape: as events, or whole."""

    def describe(self, meta: Mapping[str, Any]) -> None:
        """Take what the engine says of itself (`Reader.meta`), for answers that have a place for it."""

    def start(self) -> bytes:
        """The events before the first piece."""

    def delta(self, piece: Piece) -> bytes:
        """The events that add a piece to its choice."""

    def end(self, piece: Piece) -> bytes:
        """The events that end a choice; `piece.finish` says why."""

    def close(self, usage: Mapping[str, Any]) -> bytes:
        """The last events of the stream. `usage` has a chat completion's names."""

    def whole(self, choices: Sequence[Choice], usage: Mapping[str, Any]) -> bytes:
        """The answer as one JSON document."""


class Ending(NamedTuple):
    """What the last events of a stream say."""

    ended: bool = False  # the dialect's own end mark came
    finished: bool = False  # the answer's choices have ended
    failure: Any = None  # an error that the engine reported inside the stream
    usage: Mapping[str, Any] | None = None  # in a chat completion's terms


class Dialect(Protocol):
    """One wire API, as clients speak it. Stateless."""

    path: str  # of its requests, with us as with an engine that speaks it
    summary: str  # of the API reference
    properties: Mapping[str, Any]  # JSON schemas of the fields that a request must have
    renders: Collection[str]  # of policies that its requests can carry
    done: bytes  # the event that ends a stream of this API, for engines that leave it out; b"" where there is none

    def key(self, headers: Headers) -> str | None:
        """The caller's API key; None where no header has one."""

    def parse(self, body: bytes, limits: Server) -> Request:
        """The body, split into its fields. Raises BadRequest."""

    def chat(self, request: Request, limits: Server) -> Chat:
        """The conversation, each message with the client's own bytes. Raises BadRequest."""

    def native(self, request: Request, prompt: Prompt | None, model: str, salt: str) -> bytes:
        """The body for an engine that speaks this dialect.

        The client's bytes, with the prompt's messages in place of its own (None: unchanged), the model ("": the
        client's) and the cache's salt ("": none).
        """

    def as_chat(self, request: Request) -> Request:
        """The parameters of the request under a chat completion's names; what has none is left out."""

    def refuse_untranslatable(self, request: Request) -> None:
        """Called before the request is translated. Raises BadRequest for what no chat completion can ask for."""

    def messages(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages in a chat completion's shape."""

    def writer(self, request: Request, ident: str, model: str, created: int) -> Writer:
        """A writer of the answer; `ident` is unique, `created` in seconds since 1970."""

    def editor(self, annotation: Annotation) -> Editor:
        """What writes an annotation into an answer of this dialect, whoever wrote that."""

    def error(self, failure: ApiError) -> bytes:
        """The body of an answer that is an error."""

    def error_event(self, failure: ApiError) -> bytes:
        """The last event of a stream that fails."""

    def refusal(self, status: int, body: bytes) -> bytes:
        """The error answer of an engine that speaks OpenAI's API, in this dialect."""

    def ending(self, tail: bytes) -> Ending:
        """What the end of an engine's stream in this dialect says; of a long one `tail` begins with its begin."""

    def usage(self, body: bytes) -> Mapping[str, Any] | None:
        """The usage of a whole answer in this dialect, under a chat completion's names."""

    def text(self, body: bytes, *, stream: bool) -> str | None:
        """The text of an answer in this dialect, for traces that keep content; None where it has none."""
