"""The arms of an evaluation: what is asked, how that is written, and whether it is there.

plain                          the policy `plain` of the server at --url
strict=careful,temperature=0   the policy `careful`, named strict, with a decoding of its own
gpt=https://api.openai.com#gpt-4o,key_env=OPENAI_API_KEY       another engine, which is asked as it is
new=http://10.0.0.2:8000#llama,policy=default,body.top_k=1     a policy of another server; any field of the body
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import httpx
import yaml

from trainers.ask.host import EngineError, said

DECODING = (
    "temperature", "top_p", "top_k", "min_p", "max_tokens", "max_completion_tokens", "stop", "presence_penalty",
    "frequency_penalty", "repetition_penalty", "logit_bias", "response_format", "reasoning_effort",
    "chat_template_kwargs",
)  # fmt: skip
SETTINGS = ("name", "url", "model", "policy", "key_env")
OURS = ("messages", "model", "stream", "stream_options", "seed", "n", "trimtab")  # fields that a run fills in itself


# Engines that read prompts one after another and keep the last one's prefix: by Trimtab's kind, and by what their lists
# of models say (llama-server, llama-cpp-python and Ollama).
_SERIAL_KINDS = frozenset({"llama.cpp", "llama-cpp-python", "onnx", "ollama"})
_SERIAL_OWNERS = frozenset({"llamacpp", "me", "library"})


class ArmError(Exception):
    """There is no such arm; the message says what would be one."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to be answered. `decoding` holds fields of the request's body; what is not there is the server's own."""

    name: str
    url: str
    model: str = ""
    policy: str = ""
    key_env: str = ""
    decoding: Mapping[str, Any] = field(default_factory=dict)
    serial: bool = False  # its engine keeps the prefix of one prompt only, as `find` learned

    @property
    def base(self) -> str:
        """The URL without /v1."""
        return self.url.rstrip("/").removesuffix("/v1")

    @property
    def endpoint(self) -> str:
        """The URL of chat completions."""
        return self.base + "/v1/chat/completions"

    @property
    def host(self) -> str:
        """Scheme, name and port: arms of one host share its limits."""
        parts = urlsplit(self.url)
        port = parts.port or {"https": 443}.get(parts.scheme, 80)
        return f"{parts.hostname}:{port}"

    def headers(self) -> dict[str, str]:
        """Raises EngineError where the variable that should hold the key is empty."""
        headers = {"X-Trimtab-Policy": self.policy} if self.policy else {}
        if not self.key_env:
            return headers
        if not (key := os.environ.get(self.key_env)):
            raise EngineError(f"the environment has no {self.key_env}, which should hold the key of {self.url}")
        return headers | {"Authorization": f"Bearer {key}"}

    def body(self, messages: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        """The request's JSON body for these messages."""
        model = {"model": self.model} if self.model else {}
        return {**model, "messages": list(messages), **self.decoding}


@dataclass(frozen=True, slots=True)
class Identity:
    """What answered, as far as it says: whoever reads the report must be able to tell it from another."""

    model: str = ""
    digest: str = ""  # of the policy
    stages: tuple[str, ...] = ()
    engine: str = ""  # the policy's, by the server's name for it
    profile: str = ""
    indexes: tuple[str, ...] = ()  # name@revision of each that the key may read


# ---------------------------------------------------------------- how an arm is written


def read_arm(written: str | Mapping[str, Any], url: str = "", key_env: str = "") -> Arm:
    """An arm from the command line's text or from a plan's mapping. `url` and `key_env` stand where it has none.

    Raises:
        ArmError: it says too little, or something that is no setting.
    """
    settings = _settings(written) if isinstance(written, str) else dict(written)
    shown = written if isinstance(written, str) else ", ".join(f"{k}={v}" for k, v in written.items())
    decoding = {}
    for key in [key for key in settings if key not in SETTINGS]:
        field_name = key.removeprefix("body.")
        if field_name in OURS:
            raise ArmError(f"arm {shown!r}: {field_name} is set by the run (see --seed, --samples and policy=)")
        if field_name == key and key not in DECODING:
            near = difflib.get_close_matches(str(key), (*SETTINGS, *DECODING), n=1)
            meant = f" (did you mean {near[0]!r}?)" if near else ""
            raise ArmError(
                f"arm {shown!r}: no setting {key!r}{meant}; valid are {', '.join((*SETTINGS, *DECODING))}, "
                "and body.FIELD for any other field of the request"
            )
        decoding[field_name] = settings.pop(key)
    told = {key: str(value) for key, value in settings.items() if value is not None}
    own_url = told.get("url", "")
    where = own_url or url
    if not where:
        raise ArmError(f"arm {shown!r}: no URL; give --url for the server whose policy it is, or NAME=URL#MODEL")
    check_address(f"arm {shown!r}", where)
    key = told.get("key_env", "" if own_url and _origin(own_url) != _origin(url) else key_env)  # a key has one host
    name = told.get("name") or told.get("policy") or told.get("model") or _origin(where)
    return Arm(name, where, told.get("model", ""), told.get("policy", ""), key, decoding)


def check_address(who: str, where: str) -> None:
    """Raises ArmError where it is none, or holds what a report is not to show."""
    try:
        parts = urlsplit(where)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a port, or of brackets
        sound = False
    if not sound:
        raise ArmError(f"{who}: {where!r} is no http:// or https:// address")
    if parts.username or parts.password:  # run.json and the report show the address
        raise ArmError(
            "an address holds a name or a password, which the report would show; put the key into a variable "
            "(key_env=, --judge-key-env)"
        )


def _origin(url: str) -> str:
    return urlsplit(url).netloc


def _settings(text: str) -> dict[str, Any]:
    """`[NAME=]POLICY` or `NAME=URL`, `#MODEL` after either, then `,key=value …`; values are YAML."""
    head, *options = text.split(",")
    settings: dict[str, Any] = {}
    name, equals, what = head.partition("=")
    if not equals or "://" in name:  # no name; an address may hold an equals sign
        name, what = "", head
    where, _, model = what.strip().partition("#")
    settings["url" if "://" in where else "policy"] = where
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise ArmError(f"arm {text!r}: {option!r} is not KEY=VALUE")
        try:
            settings[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ArmError(f"arm {text!r}: the value of {key!r} is not YAML") from None
    settings |= {"name": name.strip()} if name.strip() else {}
    settings |= {"model": model} if model else {}
    return {key: value for key, value in settings.items() if value != ""}


def read_arms(
    written: Sequence[str | Mapping[str, Any]], url: str, key_env: str, common: Mapping[str, Any]
) -> list[Arm]:
    """All arms, each name once; `common` is the decoding of those that do not say their own.

    Raises:
        ArmError: two of one name, or fewer than two.
    """
    arms = [read_arm(each, url, key_env) for each in written]
    arms = [replace(arm, decoding={**common, **arm.decoding}) for arm in arms]
    names = [arm.name for arm in arms]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ArmError(f"two arms are called {twice!r}; give one a name: NAME={twice}")
    if len(arms) < 2:
        raise ArmError("a comparison needs two arms or more: --arm A --arm B")
    return arms


# ---------------------------------------------------------------- whether it is there


def find(arm: Arm, timeout_s: float = 10.0) -> tuple[Arm, Identity]:
    """The arm with its model filled in where there is one only, and what its server says it is. Sends no prompt.

    Raises:
        ArmError: no such policy or model; the message lists those there are. EngineError: the server is away.
    """
    with httpx.Client(timeout=timeout_s, headers=arm.headers()) as client:
        policies = _listed(client, arm, "/v1/policies")
        models = _listed(client, arm, "/v1/models")
        known = {str(row["id"]): row for row in policies or ()}
        policy = known.get(arm.policy, {}) if arm.policy else next((r for r in known.values() if r.get("default")), {})
        revisions = _revisions(client, arm) if "opo" in policy.get("stages", ()) else ()
    if arm.policy and policies is None:
        raise ArmError(
            f"arm {arm.name!r}: {arm.url} is no Trimtab server (it has no /v1/policies), so it has no policy "
            f"{arm.policy!r}; an engine as it is: {arm.name}={arm.url}#MODEL"
        )
    if arm.policy and not policy:
        raise ArmError(f"arm {arm.name!r}: {arm.url} has no policy {arm.policy!r}; valid are {', '.join(known)}")
    names = [str(row["id"]) for row in models or ()]
    if arm.model and names and arm.model not in names:
        raise ArmError(f"arm {arm.name!r}: {arm.url} has no model {arm.model!r}; valid are {', '.join(names)}")
    served = str(policy.get("model") or "")
    if not arm.model and not served:
        if len(names) != 1 and (policies is None or names):
            some = ", ".join(names) or "unknown: it lists none"
            raise ArmError(f"arm {arm.name!r}: which model of {arm.url}? Write #MODEL; valid are {some}")
        arm = replace(arm, model=names[0] if names else "")
    owners = {str(row.get("owned_by") or "") for row in models or ()}
    if policy.get("kind") in _SERIAL_KINDS or not owners.isdisjoint(_SERIAL_OWNERS):
        arm = replace(arm, serial=True)
    identity = Identity(
        arm.model or served, str(policy.get("digest") or ""), tuple(policy.get("stages") or ()),
        str(policy.get("engine") or ""), str(policy.get("profile") or ""), revisions,
    )  # fmt: skip
    return arm, identity


def _revisions(client: httpx.Client, arm: Arm) -> tuple[str, ...]:
    """Each index that the key may read, as NAME@REVISION; none where it may not."""
    found = []
    for row in _listed(client, arm, "/v1/indexes") or ():
        reply = client.get(arm.base + "/v1/principles", params={"index": row["id"], "limit": 1})
        if reply.status_code == 200:
            found.append(f"{row['id']}@{reply.json().get('revision')}")
    return tuple(found)


def _listed(client: httpx.Client, arm: Arm, path: str) -> list[dict[str, Any]] | None:
    """The rows of a list; None where the server has no such list, or does not show it."""
    try:
        reply = client.get(arm.base + path)
    except httpx.TransportError as error:
        raise EngineError(f"arm {arm.name!r}: {arm.url} cannot be reached: {error} (is it running?)") from None
    if reply.status_code == 401 and path == "/v1/models":  # 403: a key that may ask, and not list
        key = f"the key in {arm.key_env}" if arm.key_env else "a request without a key (give key_env=)"
        raise EngineError(f"arm {arm.name!r}: {arm.url} refuses {key}: {reply.status_code}: {said(reply)}")
    try:
        rows = reply.json()["data"] if reply.status_code == 200 else None
    except (ValueError, KeyError, TypeError):
        return None
    return [row for row in rows if isinstance(row, dict) and "id" in row] if isinstance(rows, list) else None
