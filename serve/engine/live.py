"""An engine as a worker sees it: where it is, whether it answers, what it can do, how it wants to be asked."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompt_opt.core import Chat, Prompt
from serve.config import Config, ConfigError, Engine, is_base
from serve.dialects.surrogates import restore
from serve.dialects.wire import Request
from serve.engine.address import Addressing
from serve.engine.budget import retry_after
from serve.engine.fields import refuse_guarded
from serve.errors import BadRequest, NotFound, Unavailable

if TYPE_CHECKING:
    from serve.engine.contact import Contact
    from serve.engine.pool import Pool
    from serve.engine.relay import Relay
from serve.engine.upstream import Upstream
from serve.http.headers import request_headers

log = logging.getLogger("trimtab.engines")

_IMAGES = ("image_url", "input_image", "image")
_AUDIO = ("input_audio", "audio_url")


def _set(name: str, *unset: Any) -> Callable[[Request, Chat | None], bool]:
    def used(request: Request, chat: Chat | None) -> bool:
        value = request.value(name)
        return value is not None and value is not False and value not in ([], {}, *unset)

    return used


def _parts(types: tuple[str, ...]) -> Callable[[Request, Chat | None], bool]:
    return lambda request, chat: chat is not None and any(kind in types for m in chat.messages for kind in m.media)


# feature -> does this request use it? What `supports` leaves out is refused by name, never dropped in silence.
FEATURES: Mapping[str, Callable[[Request, Chat | None], bool]] = {
    "n": _set("n", 1),
    "best_of": _set("best_of", 1),
    "echo": _set("echo"),
    "logprobs": _set("logprobs"),
    "top_logprobs": _set("top_logprobs", 0),
    "prompt_logprobs": _set("prompt_logprobs"),
    "response_format": _set("response_format", {"type": "text"}),
    "tools": _set("tools"),
    "tool_choice": _set("tool_choice", "auto", "none"),
    "functions": _set("functions"),
    "presence_penalty": _set("presence_penalty", 0),
    "reasoning_effort": _set("reasoning_effort"),
    "modalities": _set("modalities", ["text"]),
    "prediction": _set("prediction"),
    "images": _parts(_IMAGES),
    "audio": _parts(_AUDIO),
}
PARTS = frozenset({"images", "audio"})  # those that only the messages show
# Request fields that OpenAI does not have but engines of these kinds do.
_EXTENSIONS = frozenset({"repetition_penalty", "top_k", "min_p", "typical_p", "no_repeat_ngram_size", "length_penalty"})
_VLLM_ONLY = frozenset({"bad_words", "min_tokens"})  # ours to leave out elsewhere: only a rewriter's decoding has them


_PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})  # that every engine has
APIS = {"/v1/responses": "responses", "/v1/messages": "messages"}  # that some have: path -> name in `supports`
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
        self._rests = 0.0  # until then it is not asked where there is another, in time.monotonic() seconds
        self.kind = ""
        self.context = spec.context
        self.names: tuple[str, ...] = ()  # models that the engine listed
        self.base = is_base(spec)
        self.forms: dict[str, frozenset[str]] = {}  # by model: of `prompt_opt.layout.forms`, where it wants another
        self.specials: frozenset[str] = frozenset()
        self.key = os.environ.get(spec.key_env) or None if spec.key_env else None
        self._tokenizer: Any = None
        self._generation: dict[str, Any] = {}
        self._model_config: dict[str, Any] = {}
        self._supports = frozenset(FEATURES if spec.supports is None else spec.supports)
        self._apis: dict[str, tuple[bool, float]] = {}  # path -> whether the engine has it, when that was probed
        try:
            if spec.launched:
                self._read_folder(Path(spec.model))
            if spec.tokenizer:
                self._load_tokenizer(Path(spec.tokenizer))
        except Exception as error:  # the tokenizers library raises nothing narrower
            raise ConfigError(f"engine.{spec.name}: its model or tokenizer cannot be read: {error}") from error
        self._speak(spec.kind or (spec.launcher if spec.launcher in ("vllm", "transformers") else ""))

    # -- what it is

    def update(self, told: Mapping[str, Any]) -> None:
        """What the supervisor says of a launched engine, or a pool of its members."""
        self.url = told.get("url", self.url)
        self.model = told.get("model", self.model) or self.model
        self.state, self.reason = told.get("state", self.state), told.get("reason", "")
        if not self.spec.kind:
            self._speak(told.get("kind") or self.kind)

    def learn(self, models: list[dict[str, Any]]) -> None:
        """What the engine's own /v1/models says: names, and with vLLM the context."""
        self.names = tuple(str(m["id"]) for m in models if isinstance(m.get("id"), str))
        if not self.kind and any(m.get("owned_by") == "vllm" for m in models):
            self._speak("vllm")
        lengths = [m["max_model_len"] for m in models if isinstance(m.get("max_model_len"), int)]
        if self.spec.context is None and lengths:
            self.context = min(lengths)

    def _speak(self, kind: str) -> None:
        """Settle the dialect, and with it what the engine can do where the configuration does not say."""
        self.kind = kind
        self.counts = self.spec.stream_usage and kind != "transformers"  # whose streams always tell it
        if self.spec.supports is None:
            self._supports = self._transformers_features() if kind == "transformers" else frozenset(FEATURES)

    def _read_folder(self, folder: Path) -> None:
        if not (folder / "config.json").is_file():
            return
        self._model_config = json.loads((folder / "config.json").read_text("utf-8"))
        if self.context is None:
            length = self._model_config.get("max_position_embeddings")
            self.context = length if isinstance(length, int) else None
        if (folder / "generation_config.json").is_file():
            self._generation = json.loads((folder / "generation_config.json").read_text("utf-8"))
        if not self.spec.tokenizer and (folder / "tokenizer.json").is_file():
            self._load_tokenizer(folder)

    def _load_tokenizer(self, path: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(path / "tokenizer.json" if path.is_dir() else path))
        self.specials = frozenset(t.content for t in self._tokenizer.get_added_tokens_decoder().values() if t.special)

    def _transformers_features(self) -> frozenset[str]:
        """`transformers serve` ignores what is not here with a log line (read in its 5.23 source)."""
        features = set()
        if "vision_config" in self._model_config:
            features.add("images")
        if "audio_config" in self._model_config:
            features.add("audio")
        folder = Path(self.spec.model)
        template = folder / "chat_template.jinja"
        text = template.read_text("utf-8") if template.is_file() else ""
        if "tools" in text or not folder.is_dir():
            features.add("tools")
        return frozenset(features)

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
        return self.state in ("ready", "unknown")

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
        if not self.spec.launched:
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
        body = restore(body)
        if self.pool is None:
            url, ca_file = self.addressing.at(self.url, path), self.addressing.ca_file
            return relay.send("POST", url, headers, body, ca_file=ca_file)
        return self.pool.post(relay, path, headers, body, prefix)

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
        if not self.ready:
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

    def refuse(self, request: Request, chat: Chat | None) -> None:
        """Raises BadRequest naming the first thing in the request that this engine can't do."""
        for feature, used in FEATURES.items():
            if feature not in self._supports and used(request, chat):
                what = self.kind or "its configuration"
                raise BadRequest(
                    f"engine {self.spec.name!r} ({what}) does not support {feature!r}",
                    code="unsupported",
                    param=feature,
                )

    def refuse_chat(self, config: Config) -> None:
        """Raises BadRequest, naming the policies that would work, where the model has no chat template."""
        if self.base:
            raise BadRequest(self.no_template(config), code="no_chat_template", param="model")

    def no_template(self, config: Config) -> str:
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
        return self.kind != "transformers"

    @property
    def supports(self) -> frozenset[str]:
        """The FEATURES that may be asked of it."""
        return self._supports

    def speaks(self, path: str) -> bool:
        """Whether the engine has this API's path itself, so that a request of it needs no translation."""
        if path in _PATHS or self.spec.supports is not None:
            return path in _PATHS or APIS.get(path) in self._supports
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
        known = self.kind in ("vllm", "transformers")
        return [] if known else sorted(name for name in names if name in _EXTENSIONS or name in _VLLM_ONLY)

    def must_adapt(self, fields: Iterable[str]) -> bool:
        """Whether a client's own fields mean something else, or nothing, in this engine's dialect."""
        return self.kind == "transformers" and any(name == "temperature" or name in _EXTENSIONS for name in fields)

    def adapt(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields in this engine's dialect.

        OpenAI's own engine refuses what it does not know, so the extensions of a profile's decoding go only to
        engines that have them. `transformers serve` wants them in `generation_config`, and samples only when told.
        """
        out = dict(fields)
        if self.kind == "vllm":
            return out
        for name in _VLLM_ONLY:
            if name in out and not _is_raw(out[name]):
                del out[name]
        extra = {name: out.pop(name) for name in list(out) if name in _EXTENSIONS and not _is_raw(out[name])}
        if self.kind != "transformers":
            return out
        extra |= {name: json.loads(bytes(out.pop(name))) for name in list(out) if name in _EXTENSIONS}
        temperature = out.get("temperature", 0)
        temperature = json.loads(bytes(temperature)) if _is_raw(temperature) else temperature
        generation = {"top_k": 0, **self._generation, "max_new_tokens": 1024, **extra}
        generation["do_sample"] = bool(temperature)
        if temperature:
            generation["temperature"] = temperature
        else:
            # Its validation refuses a sampling setting that greedy decoding would not use.
            for name in ("temperature", "top_k", "top_p", "min_p", "typical_p"):
                generation.pop(name, None)
            out.pop("temperature", None)
        out.pop("stream_options", None)  # its streams end with the usage, asked or not
        out["generation_config"] = json.dumps(generation)
        return out

    # -- counting

    def count(self, text: str) -> int:
        """Tokens of `text`: exact with the engine's tokenizer, else an estimate on the safe side (3 bytes each)."""
        if self._tokenizer is not None:
            return len(self._tokenizer.encode(text, add_special_tokens=False).ids)
        return -(-len(text.encode()) // 3)

    def prompt_tokens(self, prompt: Prompt) -> int:
        """Tokens of a prompt, with a little for what a template or a BOS adds."""
        if prompt.messages is not None:
            return sum(self.count(m.text) + 8 for m in prompt.messages) + 8
        return self.count(prompt.text or "") + 2


def _is_raw(value: Any) -> bool:
    return not isinstance(value, (str, int, float, bool, list, dict, type(None)))
