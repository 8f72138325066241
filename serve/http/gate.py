"""Who may ask at all, judged by a request's head: under which names the server answers, and for which web pages.

Keys protect a server from the pages that its users visit: a page cannot send a key that it does not have. A server
without keys needs other means, since a browser on this machine reaches it for any page. So there

- `Host` must name this machine or be listed in `server.hosts`, or a page could have its own domain resolve to this
  machine (DNS rebinding) and read the answers as its own;
- a request that changes or costs something must not come from a page of another origin, which could send it without
  reading the answer (a form, `sendBeacon`, `fetch` in the mode "no-cors"), unless `server.cors_origins` lists it.

Browsers always say where such a request comes from: in `Sec-Fetch-Site`, older ones in `Origin`. No page can change
either. Programs that are no browser send neither.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping, Sequence

from serve.config import Config
from serve.errors import ApiError, Forbidden
from serve.http.cors import Cors

_SAFE = (b"GET", b"HEAD", b"OPTIONS")
_OWN = (b"same-origin", b"none")  # "none": typed in, or a bookmark
_PAGES = (b"origin", b"sec-fetch-site")  # headers that say which page a request comes from
_REMEMBERED = 64  # names that have been accepted, so that they need not be looked at again


class Gate:
    """Judges the heads of requests under one configuration."""

    def __init__(self, config: Config) -> None:
        self._keyless = not config.keys
        self._judges_hosts = self._keyless or bool(config.server.hosts)
        own = (config.server.host, socket.gethostname(), *config.server.hosts)
        self._names = frozenset(name.lower() for name in own)
        self._accepted: set[bytes] = set()
        self.cors = Cors(config.server.cors_origins)

    def knows(self, named: Mapping[bytes, bytes], count: int) -> bool:
        """Whether a head of so many headers needs no judging: a program's, in which no header stands twice."""
        if not self._judges_hosts:
            return True
        return named.get(b"host") in self._accepted and named.keys().isdisjoint(_PAGES) and len(named) == count

    def refusal(self, method: bytes, headers: Sequence[tuple[bytes, bytes]]) -> ApiError | None:
        """Why a request may not go on; None where it may. Header names are in lower case."""
        if not self._judges_hosts:
            return None
        host = origin = site = b""
        for name, value in headers:
            if name == b"host":
                host = value
                if value not in self._accepted and not self._named(value):
                    return _misnamed(value)
            elif name == b"origin":
                origin = value
            elif name == b"sec-fetch-site":
                site = value
        if method in _SAFE or not self._keyless or not (origin or site):
            return None
        if self.cors.allows(origin):
            return None
        own = site in _OWN if site else origin.partition(b"://")[2].lower() == host.lower()
        return None if own else _foreign(site, origin)

    def _named(self, host: bytes) -> bool:
        name = _without_port(host.decode("latin-1").lower())
        own = (
            (bool(name) and name in self._names)
            or name == "localhost"
            or name.endswith(".localhost")
            or "*" in self._names
        )
        if (own or _is_address(name)) and len(self._accepted) < _REMEMBERED:
            self._accepted.add(host)
        return own or _is_address(name)


def _without_port(host: str) -> str:
    """The name or address of a Host header's value, "" where it is neither."""
    found = re.fullmatch(r"(?:\[([^\]]+)\]|([^:@]*?)\.?)(?::\d*)?", host)
    return (found[1] or found[2]) if found else ""


def _is_address(name: str) -> bool:
    """An address stands for itself: no name server can make it another."""
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def _misnamed(host: bytes) -> ApiError:
    name = host.decode("latin-1")
    return Forbidden(
        f"the Host {name!r} is not one of this server's: list it in server.hosts, or configure a [[key]]",
        code="host_not_allowed",
    )


def _foreign(site: bytes, origin: bytes) -> ApiError:
    where = origin.decode("latin-1") or site.decode("latin-1")
    return Forbidden(
        f"a web page of another origin ({where!r}) may not use a server without keys: configure a [[key]]",
        code="cross_origin",
    )
