"""An engine as a worker sees it: where it is, whether it answers, what it can do, how it wants to be asked."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompt_opt.core import Chat
from serve.config import Config, ConfigError, Engine, is_base
from serve.dialects.wire import Request
from serve.engine import kinds
from serve.engine.address import Addressing
from serve.engine.budget import retry_after
from serve.engine.features import ADDED_LATER, APIS, FEATURES, PATHS, of_kind, of_template, of_transformers
from serve.engine.fields import refuse_guarded
from serve.engine.model import Model
from serve.errors import BadRequest, NotFound, Unavailable
from serve.gguf import located

if TYPE_CHECKING:
    from serve.engine.contact import Contact
    from serve.engine.pool import Pool
    from serve.engine.relay import Relay
from serve.engine.upstream import Upstream
from serve.http.headers import request_headers

log = logging.getLogger("trimtab.engines")

_READY = ("ready", "unknown")
_PROBED_S = 300.0  # after which a probe's result is asked for again: an engine may be upgraded


class LiveEngine:
    """One engine's state in this worker; the supervisor and probing change it, requests read it."""

    def __init__(self, spec: Engine) -> None:
        """Raises ConfigError where a launched model's files, or the tokenizer, can't be read."""
        self.spec = spec
        self.url = spec.url or next(iter(spec.urls), "")  # of several, one that answers
        self.model = spec.model  # what the engine itself calls it
        self.state = "starting" if spec.launched else "unknown"
        self.reason = ""
        self.addressing = Addressing.of(spec)
        self._urls: dict[str, str] = {}  # by path
        self._passed = frozenset(name.lower().encode() for name in spec.headers_pass)
        self._fixed = {name.lower(): value for name, value in spec.headers.items()}
        self.named = False  # errors may name its URL: no keys are configured, so the client is at home
        self.pool: Pool | None = None
        self.contact: Contact | None = None
        if spec.urls:
            from serve.engine.pool import Pool  # brings the HTTP client, which the parent process does without

            self.pool = Pool(
                spec.name, spec.urls, spec.affinity, self.update,
                retries=spec.retries, idempotent=spec.idempotent, addressing=self.addressing,
            )  # fmt: skip
        elif spec.url:
            from serve.engine.contact import Contact

            self.contact = Contact(spec.name, spec.url, self.addressing, self.headers)
        self.counts = spec.stream_usage  # it tells the usage of a stream that asks for it, for all we know
        self.counted = False  # it has told the usage of a stream
        self._rests = 0.0  # until then it is not asked where there is another, in time.monotonic() seconds
        self.kind = ""
        self.version = ""  # of the engine's program, as it says itself
        self.names: tuple[str, ...] = ()  # models that the engine listed
        self.base = is_base(spec)
        self.forms: dict[str, frozenset[str]] = {}  # by model: of `prompt_opt.layout.forms`, where it wants another
        self.launched = spec.launched
        self.key = os.environ.get(spec.key_env) or None if spec.key_env else None
        self._files = Model()
        self.count, self.prompt_tokens = self._files.count, self._files.prompt_tokens
        # What may be asked of it.
        self.supports = frozenset(FEATURES) if spec.supports is None else ADDED_LATER.union(spec.supports)
        self._apis: dict[str, tuple[bool, float]] = {}  # path -> whether the engine has it, when that was probed
        try:
            if spec.launched and (file := located(spec.model)):
                self._files.read_gguf(file, tokenizer=not spec.tokenizer)
            elif spec.launched:
                self._files.read(Path(spec.model), tokenizer=not spec.tokenizer)
            if spec.tokenizer:
                self._files.load_tokenizer(Path(spec.tokenizer))
        except Exception as error:  # the tokenizers library raises nothing narrower
            raise ConfigError(f"engine.{spec.name}: its model or tokenizer cannot be read: {error}") from error
        self.context = self._files.context if spec.context is None else spec.context
        self.specials = self._files.specials
        self._speak(spec.kind or (spec.launcher if spec.launcher != "auto" else ""))

    # -- what it is

    def update(self, told: Mapping[str, Any]) -> None:
        """What the supervisor says of a launched engine, or a pool of its members."""
        self.url = told.get("url", self.url)
        self._urls.clear()
        self.model = told.get("model", self.model) or self.model
        self.state, self.reason = told.get("state", self.state), told.get("reason", "")
        if not self.spec.kind:
            self._speak(told.get("kind") or self.kind)

    @property
    def misnomer(self) -> str:
        """What it calls its model in answers, where that is not the name it is asked by; "" for the same.

        `transformers serve` adds the revision.
        """
        return f"{self.model}@main" if self.launched and self.kind == "transformers" and "@" not in self.model else ""

    def learn(self, models: list[dict[str, Any]]) -> None:
        """What the engine's own /v1/models says: names, and with vLLM the context."""
        self.names = tuple(str(m["id"]) for m in models if isinstance(m.get("id"), str))
        owners = {m.get("owned_by") for m in models}
        if not self.kind and (kind := next((kind for owner, kind in kinds.OWNERS.items() if owner in owners), "")):
            self._speak(kind)
        lengths = [m["max_model_len"] for m in models if isinstance(m.get("max_model_len"), int)]
        if self.spec.context is None and lengths:
            self.context = min(lengths)

    def _speak(self, kind: str) -> None:
        """Settle the dialect, and with it what the engine can do where the configuration does not say."""
        self.kind = kind
        self.counts = self.spec.stream_usage and kind != "transformers"  # whose streams always tell it
        if self.spec.supports is None:
            self.supports = (
                of_transformers(Path(self.spec.model), self._files.config) if kind == "transformers" else of_kind(kind)
            )
            if kind == "llama-cpp-python" and not self._formats:
                self.supports = of_template(self.supports, self._files.template)
        self.lacks = tuple([(name, used) for name, used in FEATURES.items() if name not in self.supports])
        self.ignores = kinds.ignores(kind, self.version)
        self.adapts = kind in kinds.ADAPTED  # `must_adapt` may say so

    def learn_version(self, version: str) -> None:
        """What the engine says that its program's version is."""
        self.version = version
        self.ignores = kinds.ignores(self.kind, version)

    @property
    def _formats(self) -> bool:
        """Whether llama-cpp-python lays chats out by a format of its own, which may know tools, not by the model's."""
        return any(it == "--chat_format" or it.startswith("--chat_format=") for it in self.spec.args)

    @property
    def checked(self) -> Pool | Contact | None:
        """What asks it in the background how it is; None for a launched one, whose supervisor does."""
        return self.pool or self.contact

    @property
    def condition(self) -> tuple[str, str]:
        """Its state and the reason, for /readyz."""
        return (self.contact.state, self.contact.reason) if self.contact else (self.state, self.reason)

    @property
    def answers(self) -> bool:
        """Whether it has been found to answer."""
        if self.checked is not None:
            return self.checked.up
        return self.ready

    @property
    def ready(self) -> bool:
        """Whether requests may be sent: it answers, or has not been asked yet."""
        return self.state in _READY

    def stand_in(self, model: str) -> str:
        """What to send as the model where this engine stands in for another one, for which the name was meant."""
        return self.model or model

    def rest(self, answer: Upstream) -> None:
        """Heed the Retry-After of an answer that did not serve a request."""
        self._rests = time.monotonic() + retry_after(answer.headers)

    def name_for(self, model: str) -> str:
        """What to send as the model for the name a client gave ("" for none).

        Raises:
            NotFound: a launched engine has no such model. One by URL says so itself.
        """
        if not self.launched:
            return model or self.model
        if model in ("", self.spec.public_name, self.model):
            return self.model
        if model not in self.names and (self.names or self.kind == "transformers"):
            valid = ", ".join(dict.fromkeys([self.spec.public_name, *self.names]))
            raise NotFound(
                f"no model {model!r} on engine {self.spec.name!r}; valid are {valid}",
                code="model_not_found",
                param="model",
            )
        return model

    def post(
        self, relay: Relay, path: str, headers: Mapping[str, str], body: bytes, prefix: str = ""
    ) -> Awaitable[Upstream]:
        """Send to the engine, or to one of its pool. Raises an UpstreamError when awaited.

        `prefix` names the constant part of the prompt, which one engine's cache may have ("": there is none).
        """
        if self.pool is None:
            url = self._urls.get(path) or self._address(path)
            return relay.send("POST", url, headers, body, ca_file=self.addressing.ca_file)
        return self.pool.post(relay, path, headers, body, prefix)

    def _address(self, path: str) -> str:
        """Where a path of ours is; remembered, unless a client's query makes it one of many."""
        url = self.addressing.at(self.url, path)
        if "?" not in path:
            self._urls[path] = url
        return url

    def get(self, relay: Relay, path: str, headers: Mapping[str, str]) -> Awaitable[Upstream]:
        """Ask the engine, or one of its pool that answers, for something of its own. Raises as `post`."""
        return self.request(relay, "GET", path, headers)

    def request(self, relay: Relay, method: str, path: str, headers: Mapping[str, str]) -> Awaitable[Upstream]:
        """The same by another method that has no body."""
        url, ca_file = self.addressing.at(self.url, path), self.addressing.ca_file
        return relay.send(method, url, headers, None, ca_file=ca_file)

    def headers(self, client: Iterable[tuple[bytes, bytes]] = (), *, anonymous: bool = False) -> dict[str, str]:
        """The headers of a request to it: of the client's those that pass, with its credentials where it is
        `anonymous` to us; the configured ones; and the engine's own key."""
        return request_headers(
            client, self.key,
            authorization=anonymous, key_header=self.spec.key_header, more=self._passed, fixed=self._fixed,
        )  # fmt: skip

    # -- what it can do

    def require_ready(self) -> None:
        """Raises Unavailable, with the reason, unless the engine answers."""
        if self.state not in _READY:
            why = f": {self.reason}" if self.reason else ""
            raise Unavailable(
                f"engine {self.spec.name!r} is {self.state}{why}; try again soon", code="engine_not_ready"
            )

    def require_rested(self) -> None:
        """Raises Unavailable while the engine does not answer, or asks for a pause by its Retry-After."""
        if self.contact is not None and self.contact.state == "down":
            raise Unavailable(f"engine {self.spec.name!r} is down: {self.contact.reason}", code="engine_not_ready")
        if self._rests > time.monotonic():
            raise Unavailable(f"engine {self.spec.name!r} asked for a pause", code="engine_not_ready")

    def refuse_guarded(self, request: Request, *, salted: bool) -> None:
        """Raises BadRequest naming a field that reaches into the engine and that `fields_pass` does not name."""
        refuse_guarded(request.fields, self.spec.fields_pass, self.spec.name, salted=salted)

    def refuse(self, request: Request, chat: Chat | None, path: str = "", *, translates: bool = True) -> None:
        """Raises BadRequest naming the first thing in the request that this engine can't do, or would ignore.

        `path` is the one that the client asked for: an engine's own /v1/messages has other fields than its chats, and
        so has any path whose requests nothing `translates` into chats. What `fields_pass` names is not judged.
        """
        for feature, used in self.lacks:
            if used(request, chat) and feature not in self.spec.fields_pass:
                what = self.kind or "its configuration"
                raise BadRequest(
                    f"engine {self.spec.name!r} ({what}) does not support {feature!r}",
                    code="unsupported",
                    param=feature,
                )
        if self.ignores.isdisjoint(request.fields) or self.spec.supports is not None:
            return
        if path not in PATHS and (not translates or self.speaks(path)):
            return
        for name in kinds.ignored(self.ignores, request):
            if name not in self.spec.fields_pass:
                raise BadRequest(
                    f"engine {self.spec.name!r} ({self.kind}) ignores {name!r}. To send it all the same, set "
                    f'fields_pass = ["{name}"] in [engine.{self.spec.name}].',
                    code="unsupported",
                    param=name,
                )

    def refuse_chat(self, config: Config) -> None:
        """Raises BadRequest, naming the policies that would work, where the model has no chat template."""
        if self.base:
            raise BadRequest(self.no_template(config), code="no_chat_template", param="model")

    def no_template(self, config: Config) -> str:
        """What the client is told where the model has no chat template, with the policies that work."""
        fit = sorted(p.name for p in config.policies.values() if p.render == "base" and p.engine == self.spec.name)
        which = ", ".join(fit) or "none is configured: set render to base"
        return (
            f"the model of engine {self.spec.name!r} is a base model without a chat template: choose a policy that "
            f"renders the chat as text ({which})"
        )

    # -- how it wants to be asked

    @property
    def streams_always(self) -> bool:
        """`transformers serve` goes on generating for a client that has left unless the call is a stream."""
        return self.kind == "transformers"

    @property
    def sends_done(self) -> bool:
        """Whether its streams end with [DONE]."""
        return self.kind != "transformers"

    def speaks(self, path: str) -> bool:
        """Whether the engine has this API's path itself, so that a request of it needs no translation."""
        if path in PATHS or self.spec.supports is not None:
            return path in PATHS or APIS.get(path) in self.supports
        return self._apis.get(path, (False, 0.0))[0]

    def must_probe(self, path: str) -> bool:
        """Whether only the engine can say if it has this API's path."""
        if path not in APIS or self.spec.supports is not None:
            return False
        return path not in self._apis or time.monotonic() - self._apis[path][1] > _PROBED_S

    def learn_api(self, path: str, *, present: bool) -> None:
        """What a probe of the path found."""
        self._apis[path] = (present, time.monotonic())

    def unknown(self, names: Iterable[str]) -> list[str]:
        """Those of a profile's decoding settings that `adapt` leaves out, sorted."""
        return kinds.unknown(self.kind, names)

    def must_adapt(self, fields: Iterable[str]) -> bool:
        """Whether a client's own fields mean something else, or nothing, to this engine."""
        return kinds.must_adapt(self.kind, fields)

    def adapt(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields as this engine knows them."""
        return kinds.adapt(self.kind, fields, self._files.generation)
