"""`trimtab.toml` and the flags, resolved and checked once, at boot.

Every mistake dies here with the line and the valid names (`ConfigError`). What comes out is frozen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from prompt_opt.core import Policy, Profile


class ConfigError(ValueError):
    """The configuration is wrong; the message says where, what, and what would be right."""


@dataclass(frozen=True, slots=True)
class Server:
    """`[server]`: where we listen and what we bound."""

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    drain_s: float = 30.0  # seconds that running answers get after SIGTERM
    policy: str = ""  # the policy of a request that names none; "" chooses `urial` for a base model, else `raw`
    max_body_mb: float = 32.0
    max_depth: int = 64  # nesting of a request's JSON
    max_n: int = 16
    max_messages: int = 2048
    timeout_s: float = 600.0  # an upstream that says nothing for so long has failed
    connect_s: float = 10.0
    trace_ttl_s: float = 86400.0
    trace_content: bool = False  # keep the prompt before and after in traces


@dataclass(frozen=True, slots=True)
class Engine:
    """`[engine.NAME]`: a URL, or a model that we launch and supervise.

    A launched one is `launcher` "vllm" or "transformers" (or "auto": vllm where it and a GPU are found), or a
    `command` of its own, in which {model}, {name} and {port} are filled in.
    """

    name: str
    url: str = ""  # without /v1
    model: str = ""  # launched: path or hub id; by URL: the model name sent for policies' aliases
    launcher: Literal["", "auto", "vllm", "transformers"] = ""
    command: tuple[str, ...] = ()
    served_name: str = ""  # the name clients use for a launched model
    kind: Literal["", "openai", "vllm", "transformers"] = ""  # the dialect, where probing should not decide
    key_env: str = ""  # environment variable that holds the engine's API key
    supports: tuple[str, ...] | None = None  # None: by kind
    context: int | None = None  # tokens; None: probed
    tokenizer: str = ""  # folder or tokenizer.json to count with; "": the launched model's own, else an estimate
    max_stop: int = 4  # stop strings that the engine accepts; we enforce the rest
    start_s: float = 600.0  # a launched engine that is not ready by then is restarted

    @property
    def launched(self) -> bool:
        return bool(self.launcher or self.command)


@dataclass(frozen=True, slots=True)
class Alias:
    """`[alias]`: a model name that stands for a policy and the engine's model."""

    name: str
    policy: str
    model: str = ""


@dataclass(frozen=True, slots=True)
class Key:
    """`[[key]]`: who may call, stored as the SHA-256 of the secret."""

    id: str
    sha256: str
    tenant: str = ""
    policies: tuple[str, ...] = ()  # "" or empty: every policy but raw
    rights: tuple[str, ...] = ()
    policy: str = ""  # this key's default policy


@dataclass(frozen=True, slots=True)
class Config:
    """The whole resolved configuration."""

    server: Server = field(default_factory=Server)
    engines: dict[str, Engine] = field(default_factory=dict)
    profiles: dict[str, Profile] = field(default_factory=dict)
    policies: dict[str, Policy] = field(default_factory=dict)
    aliases: dict[str, Alias] = field(default_factory=dict)
    keys: tuple[Key, ...] = ()
    state_dir: Path = Path("state")
