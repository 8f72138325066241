"""A request's entries in the account: one before anything of it is sent, one when its answer has ended.

What was asked and answered stands there as HMACs with the person's salt (`serve.store.account.people`), no text.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
import time
from collections.abc import Awaitable
from functools import lru_cache
from typing import Literal

import msgspec

from prompt_opt.core import Advice, Principle, Prompt
from prompt_opt.layout.quotation import line
from prompt_opt.pipeline import digest
from serve.chat.person import LONG
from serve.chat.record import Alignment, Record, states_of
from serve.chat.trail import Trail
from serve.config import AccountSpec, Config
from serve.errors import Unavailable
from serve.http.call import Call
from serve.store.account import Account, AccountError
from serve.store.account.people import People, Person
from serve.store.account.writer import encoded
from serve.store.place import open_account


class Opened(msgspec.Struct, frozen=True, omit_defaults=True):
    """The entry of a request that is about to be sent, beside its time, `id`, `indexes`, `rules` and `prompt`.

    `of` says what `prompt` is the HMAC of. "messages": the JSON list of messages, as a trace has it under `after`;
    "text": a base model's prompt; "body": the whole body for the engine, where the policy has added nothing.
    """

    tenant: str = ""
    key: str = ""
    path: str = ""
    policy: str = ""
    digest: str = ""  # of the policy, with the rules that its indexes held
    change: str = ""  # that put a managed policy in force
    engine: str = ""
    model: str = ""
    person: str = ""  # pseudonym
    of: Literal["messages", "text", "body", ""] = ""


class Closed(msgspec.Struct, frozen=True, omit_defaults=True):
    """The entry of a request whose answer has ended, beside its time, `id`, and the HMACs `answer` and `text`.

    `answer` is that of the body as the client received it, `text` of the first choice's text, where traces keep it.
    """

    status: int
    tenant: str = ""
    applied: str = ""  # the stages' outcomes
    finish: str = ""  # "complete", "refused" by the engine, "broken", "client left"


@lru_cache(4096)
def _opened(*fields: str) -> bytes:
    """Most requests of a caller have these in common; writing them anew would cost as much as all the rest."""
    return msgspec.json.encode(Opened(*fields))[1:-1]  # type: ignore[arg-type]


@lru_cache(4096)
def _closed(status: int, *fields: str) -> bytes:
    return msgspec.json.encode(Closed(status, *fields))[1:-1]


def opened(ident: str, fields: tuple[str, ...], more: bytes, prompt: str) -> bytes:
    """The first entry of a request; `fields` are those of `Opened`, `more` its indexes and rules, or nothing."""
    common = _opened(*fields)
    return b'{"at":%.3f,"kind":"open","id":"%s",%s%s,"prompt":"%s"}' % (
        time.time(), ident.encode(), common, more, prompt.encode()
    )  # fmt: skip


def closed(ident: str, status: int, fields: tuple[str, ...], answer: str, text: str = "") -> bytes:
    """Its second entry; `fields` are those of `Closed` behind the status."""
    ends = b"".join([b',"%s":"%s"' % (name, it.encode()) for name, it in ((b"answer", answer), (b"text", text)) if it])
    return b'{"at":%.3f,"kind":"close","id":"%s",%s%s}' % (time.time(), ident.encode(), _closed(status, *fields), ends)


class Recorder:
    """Writes the entries of one worker's requests."""

    def __init__(self, account: Account, people: People, spec: AccountSpec) -> None:
        self.account, self._people = account, people
        self._always, self._must = spec.sync == "always", spec.on_error == "fail"

    def began(self, config: Config) -> None:
        """Queue the entry that says which policies this worker serves from now on."""
        policies = {name: policy.digest for name, policy in config.policies.items()}
        self.account.queue(encoded("start", {"worker": os.getpid(), "policies": policies}))

    def end(self) -> None:
        """Write what is queued, with a last entry. Blocks."""
        self.account.queue(encoded("stop", {"worker": os.getpid()}))
        self.account.close()

    def require(self) -> None:
        """Raises Unavailable where the account cannot be written and must be."""
        if self._must and self.account.trouble:
            raise _unrecorded()

    def open(self, call: Call, record: Record, engine: str, model: str, body: bytes) -> Awaitable[None] | None:
        """Queue the entry of a request whose `body` is about to be sent; what to wait for, where there is something."""
        if record.trail is not None:
            self._opened(record, record.trail.person, engine, model, body)
            return None
        caller = record.caller
        name = record.person or caller.name
        person = self._people.known(caller.tenant, name)
        if person is None:
            return self._meet(call, record, engine, model, body)
        return self._begun(call, record, person, engine, model, body)

    async def _meet(self, call: Call, record: Record, engine: str, model: str, body: bytes) -> None:
        """The same for a person whose salt is not known yet."""
        name = record.person or record.caller.name
        try:
            person = await asyncio.to_thread(self._people.open, record.caller.tenant, name)
        except (sqlite3.Error, OSError) as error:
            if self._must:
                raise _unrecorded() from error
            return
        if (wait := self._begun(call, record, person, engine, model, body)) is not None:
            await wait

    def _begun(
        self, call: Call, record: Record, person: Person, engine: str, model: str, body: bytes
    ) -> Awaitable[None] | None:
        record.trail = trail = Trail(person)
        call.heard = trail.hear
        self._opened(record, person, engine, model, body)
        return self._on_disk() if self._always else None

    async def _on_disk(self) -> None:
        try:
            await self.account.written()
        except AccountError as error:
            if self._must:
                raise _unrecorded() from error

    def _opened(self, record: Record, person: Person, engine: str, model: str, body: bytes) -> None:
        selection, alignment = record.selection, record.alignment
        assert selection is not None
        of, text = _sent(alignment.prompt, body)
        caller, policy, states = record.caller, selection.policy, states_of(alignment.outcomes)
        more = b""
        if states:
            more = b',"indexes":' + msgspec.json.encode({name: revision for name, (revision, _) in states.items()})
        if alignment.advice.principles or alignment.advice.pinned:
            more += b',"rules":' + msgspec.json.encode(_rules(alignment))
        fields = (
            caller.tenant, caller.name, record.path, policy.name, digest(policy, states), policy.change, engine,
            (model or selection.model)[:LONG], person.pseudonym, of,
        )  # fmt: skip
        self.account.queue(opened(record.ident, fields, more, person.digest(text)))

    def close(self, record: Record, trail: Trail, status: int) -> None:
        """Queue the entry of a request that has ended with this status."""
        answer = record.answer
        text = trail.person.digest(answer.text.encode("utf-8", "surrogatepass")) if answer.text is not None else ""
        outcomes = record.alignment.outcomes
        applied = ", ".join(map(str, outcomes)) if outcomes else ""
        fields = record.caller.tenant, applied, _finish(record, status)
        self.account.queue(closed(record.ident, status, fields, trail.digest(), text))


def recorder(config: Config) -> Recorder | None:
    """What records requests, where the configuration says so.

    Raises:
        ConfigError: the account cannot be opened.
    """
    if config.account.record != "requests":
        return None
    made = Recorder(open_account(config), People(config.state_dir), config.account)
    made.began(config)
    return made


def _unrecorded() -> Unavailable:
    return Unavailable(
        "the account cannot be written, and requests that cannot be recorded are refused",
        code="account_unavailable",
    )


def _sent(prompt: Prompt | None, body: bytes) -> tuple[Literal["messages", "text", "body"], bytes]:
    """What of a request is hashed."""
    if prompt is None:
        return "body", body
    if prompt.messages is None:
        return "text", (prompt.text or "").encode("utf-8", "surrogatepass")
    return "messages", b"[" + b",".join([message.json() for message in prompt.messages]) + b"]"


def _rules(alignment: Alignment) -> list[tuple[str, str, str]]:
    """The rules that stand in the prompt: all that the stages found, unless the context had no room for some."""
    advice, prompt = alignment.advice, alignment.prompt
    if prompt is None:
        return []
    if any("context" in outcome.reason for outcome in alignment.outcomes):
        text = "".join([span.text for span in prompt.spans if span.origin in ("pinned", "retrieved")])
        return [_rule(it) for it in _quoted(advice) if line(it).strip() in text]
    return [_rule(it) for it in _quoted(advice)]


def _quoted(advice: Advice) -> tuple[Principle, ...]:
    return (*advice.pinned, *advice.principles)


def _rule(principle: Principle) -> tuple[str, str, str]:
    return principle.index, principle.id, version_of(principle.text)


@lru_cache(4096)
def version_of(text: str) -> str:
    """A rule's version, by its text: the first 16 digits of its SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _finish(record: Record, status: int) -> str:
    if not record.error and not record.answer.error:
        return "complete" if status < 400 else "refused"
    if status == 499 or record.error == "client left":
        return "client left"
    return "broken" if status < 400 else "refused"
