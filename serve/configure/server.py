"""The section `[server]`, and how open a server may be."""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from prompt_opt.core import Policy
from serve.config import RAW, Config, ConfigError, Engine, Flags, Key, Server, is_base
from serve.configure.toml import Toml


def read_server(
    toml: Toml,
    server: Server,
    policies: Mapping[str, Policy],
    keys: tuple[Key, ...],
    engines: Mapping[str, Engine],
    flags: Flags,
) -> Server:
    """`[server]` with its default policy, checked.

    Raises:
        ConfigError: a number out of its range, or a server that others reach and that nothing protects.
    """
    if server.policy:
        toml.one("server" if not flags.policy else "", "policy", server.policy, policies, "policy")
    else:
        first = "main" if "main" in engines else next(iter(engines))
        server = replace(server, policy="urial" if is_base(engines[first]) else RAW)
    for name in (
        "workers",
        "max_depth",
        "max_n",
        "max_messages",
        "max_body_mb",
        "large_bodies_mb",
        "timeout_s",
        "connect_s",
    ):
        if getattr(server, name) <= 0:
            raise toml.fail("server", name, "must be more than zero")
    for name in ("drain_s", "trace_ttl_s", "heartbeat_s"):
        if getattr(server, name) < 0:
            raise toml.fail("server", name, "must not be negative")
    _check_origins(toml, server, keyed=bool(keys))
    _check_tls(toml, server)
    if server.otlp and not re.fullmatch(r"https?://[!-~]+", server.otlp):
        raise toml.fail("server", "otlp", f"{server.otlp!r} is not an http:// or https:// URL")
    if server.reports and not Path(server.reports).is_dir():
        raise toml.fail("server", "reports", f"no folder {server.reports!r}")
    for name in server.hosts:
        if not re.fullmatch(r"\*|[A-Za-z0-9_.-]+", name):
            raise toml.fail("server", "hosts", f"{name!r} is not a host name (without scheme and port)")
    if not 0 <= server.port <= 65535:
        raise toml.fail("server", "port", "must be between 0 and 65535")
    if not keys and not server.open and not loopback(server.host):
        raise toml.fail(
            "server",
            "host",
            f"{server.host} is reachable from other hosts, but no [[key]] is configured: add one, or set "
            "server.open = true to serve everybody",
        )
    return server


def _check_origins(toml: Toml, server: Server, *, keyed: bool) -> None:
    for origin in server.cors_origins:
        if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/?#,@]+", origin):
            raise toml.fail("server", "cors_origins", f"{origin!r} is not an origin like https://app.example.com")
        if origin == "*" and not keyed:
            raise toml.fail("server", "cors_origins", '"*" opens a server without keys to every page: add a [[key]]')


def _check_tls(toml: Toml, server: Server) -> None:
    if not server.tls_cert:
        if server.tls_key:
            raise toml.fail("server", "tls_key", "needs a tls_cert")
        return
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(server.tls_cert, server.tls_key or None, password=lambda: "")
    except OSError as error:  # ssl.SSLError is one
        raise toml.fail("server", "tls_cert", f"the certificate and its key cannot be loaded: {error}") from None


def loopback(host: str) -> bool:
    """Whether only this machine reaches a server that is bound to this host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def refuse_opening(config: Config, host: str, *, keyed: bool) -> None:
    """Hold a configuration that is to replace a running one against the socket's `host`, which stays as it was bound.

    A file that is empty, half-written or has lost its keys is a valid configuration of a local server; it must not
    take the authentication from one that other hosts reach. `keyed`: the running configuration has keys.

    Raises:
        ConfigError: the server would be more open than the running configuration allows.
    """
    if config.keys:
        return
    if keyed:
        raise ConfigError("it has no [[key]], but the running configuration has: restart to serve without keys")
    if not config.server.open and not loopback(host):
        raise ConfigError(f"it has neither a [[key]] nor server.open = true, but the server is bound to {host}")
