"""How an engine is reached: its URLs, the headers and certificates that go with them, and the proxy on the way."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

from serve.config import Engine
from serve.configure.toml import Toml
from serve.engine.address import base
from serve.engine.proxy import proxy
from serve.http.headers import RESERVED

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # a token of RFC 9110, 5.6.2
_KEYS = ("authorization", "api-key", "x-api-key")
_VALUE = re.compile(r"[ -~\t]*")


def read_reach(toml: Toml, section: str, engine: Engine) -> Engine:
    """The engine with its URLs in one form.

    Raises:
        ConfigError: a URL, a header, a file of certificates or the environment's proxy is wrong.
    """
    _check_headers(toml, section, engine)
    _check_paths(toml, section, engine)
    if engine.ca_file:
        try:
            ssl.create_default_context(cafile=engine.ca_file)
        except (OSError, ValueError) as error:  # ssl.SSLError among them
            raise toml.fail(section, "ca_file", f"cannot be read as PEM certificates: {error}") from None
    engine = replace(engine, key_header=engine.key_header.lower())
    if engine.urls:
        return replace(engine, urls=_urls(toml, section, engine))
    return replace(engine, url=_url(toml, section, engine, engine.url)) if engine.url else engine


def _urls(toml: Toml, section: str, engine: Engine) -> tuple[str, ...]:
    urls = tuple(_url(toml, section, engine, url, "urls") for url in engine.urls)
    if twice := [url for at, url in enumerate(urls) if url in urls[:at]]:
        raise toml.fail(section, "urls", f"{twice[0]!r} is listed twice")
    return urls


def _url(toml: Toml, section: str, engine: Engine, url: str, key: str = "url") -> str:
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets, or a port that is none
        right = False
    if not right or not re.fullmatch(r"[!-~]+", url):
        raise toml.fail(section, key, f"{url!r} is not an http:// or https:// URL")
    if parts.query or parts.fragment:
        raise toml.fail(section, key, "must not have a query or a fragment: request paths are appended to it")
    if parts.username or parts.password:
        raise toml.fail(section, key, "must not contain credentials: name the key's environment variable in key_env")
    try:
        proxy(getproxies_environment(), parts.scheme, parts.hostname or "", parts.port or 0)
    except ValueError as error:
        raise toml.fail(section, key, str(error)) from None
    return base(url, engine.api_path)


def _check_paths(toml: Toml, section: str, engine: Engine) -> None:
    if engine.api_path and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", engine.api_path):
        raise toml.fail(section, "api_path", "must be empty or a path like /v1, without a slash at its end")
    if not re.fullmatch(r"[A-Za-z0-9.-]*", engine.api_version):
        raise toml.fail(section, "api_version", "must be a version like 2024-10-21")


def _check_headers(toml: Toml, section: str, engine: Engine) -> None:
    named = dict.fromkeys(engine.headers, "headers") | dict.fromkeys(engine.headers_pass, "headers_pass")
    for name, key in named.items():
        if not _NAME.fullmatch(name):
            raise toml.fail(section, key, f"{name!r} is not a header's name")
        if name.lower() in RESERVED or name.lower().startswith("x-trimtab-"):
            raise toml.fail(section, key, f"{name} cannot be set: {_why(name)}")
    if not all(isinstance(value, str) and _VALUE.fullmatch(value) for value in engine.headers.values()):
        raise toml.fail(section, "headers", "must be printable ASCII text by header name")
    _unique(toml, section, engine.headers)
    key = engine.key_header.lower()
    if not _NAME.fullmatch(key) or (key in RESERVED and key not in _KEYS):
        raise toml.fail(section, "key_header", f"must be a header's name, like {', '.join(_KEYS)}")


def _unique(toml: Toml, section: str, headers: Mapping[str, str]) -> None:
    if len({name.lower() for name in headers}) < len(headers):
        raise toml.fail(section, "headers", "names a header twice")


def _why(name: str) -> str:
    if name.lower() in _KEYS:
        return "credentials come from the environment, by key_env and key_header"
    return "it belongs to the connection or to the body"
