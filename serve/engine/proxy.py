"""The proxy that the environment names for a URL: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, and NO_PROXY's exceptions.

Python's own reading of these, with two things more: NO_PROXY takes networks (10.0.0.0/8), and an engine on this very
machine is always reached directly, as Go's clients have it.
"""

from __future__ import annotations

import ipaddress
import socket
from base64 import b64encode
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

_PORTS = {"http": 80, "socks5": 1080, "socks5h": 1080, "socks4": 1080, "socks4a": 1080}

Proxies = Mapping[str, str]


def environment() -> Proxies:
    """By scheme; under "no" the exceptions."""
    return getproxies_environment()


def proxy(proxies: Proxies, scheme: str, host: str, port: int) -> str:
    """The URL of the proxy for an origin, "" for none.

    Raises:
        ValueError: it is of a kind that we do not speak.
    """
    url = proxies.get(scheme) or proxies.get("all") or ""
    if not url or _direct(proxies, host, port):
        return ""
    url = url if "://" in url else f"http://{url}"
    if urlsplit(url).scheme not in _PORTS or not urlsplit(url).hostname:
        raise ValueError(f"the environment's proxy must be a URL of {', '.join(f'{name}://' for name in _PORTS)}")
    return url


def address(url: str) -> tuple[str, int]:
    """Host and port of a proxy's URL."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or _PORTS[parts.scheme]


def _direct(proxies: Proxies, host: str, port: int) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        local = host == "localhost" or host.endswith(".localhost")
        return local or bool(proxy_bypass_environment(f"{host}:{port}", dict(proxies)))
    if address.is_loopback or proxy_bypass_environment(f"{host}:{port}", dict(proxies)):
        return True
    return any(_holds(entry.strip(), address) for entry in proxies.get("no", "").split(","))


def _holds(entry: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        return address in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False


def authorization(url: str) -> bytes:
    """The Proxy-Authorization line for a proxy's URL; b"" where that has no credentials."""
    parts = urlsplit(url)
    if not parts.username:
        return b""
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return b"proxy-authorization: Basic %s\r\n" % b64encode(pair.encode())


async def tunnel(url: str, host: str, port: int) -> socket.socket:
    """A socket that reaches host and port through the proxy: by CONNECT, or by SOCKS.

    Raises:
        OSError: the proxy cannot be reached. ProxyRefused: it does not let the connection through.
    """
    from python_socks import ProxyError, ProxyType
    from python_socks.async_.asyncio import Proxy

    parts = urlsplit(url)
    kind = ProxyType[parts.scheme.removesuffix("h").removesuffix("a").upper()]
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    try:
        return await Proxy(kind, *address(url), user or None, password or None, rdns=True).connect(host, port)
    except ProxyError as error:
        raise ProxyRefused(str(error)) from error


class ProxyRefused(Exception):
    """The proxy answers that it does not let the connection through."""
