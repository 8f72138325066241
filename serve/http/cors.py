"""Which web pages of other origins may use this server from a browser (the Fetch standard's CORS protocol)."""

from __future__ import annotations

from collections.abc import Sequence

Headers = Sequence[tuple[bytes, bytes]]

_VARY = (b"vary", b"origin")
_EXPOSED = (
    b"access-control-expose-headers",
    b"x-trimtab-policy, x-trimtab-applied, x-trimtab-trace, x-trimtab-engine, x-request-id, retry-after",
)
_METHODS = (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE")
_MAX_AGE = (b"access-control-max-age", b"600")


class Cors:
    """The origins of one configuration; "*" stands for all."""

    def __init__(self, origins: Sequence[str]) -> None:
        self.origins = frozenset(origin.lower().encode() for origin in origins)

    def allows(self, origin: bytes) -> bool:
        """Whether pages of an origin may read the answers."""
        return bool(origin) and (b"*" in self.origins or origin.lower() in self.origins)

    def grant(self, method: bytes, headers: Headers) -> tuple[Headers, bool]:
        """What the answer to a request says to the browser that sent it; and whether that is all it asks for."""
        if not self.origins:
            return (), False
        named = {name: value for name, value in headers if name == b"origin" or name.startswith(b"access-control-")}
        origin = named.get(b"origin", b"")
        if not self.allows(origin):
            return (_VARY,), False
        pairs = [(b"access-control-allow-origin", origin), _VARY, _EXPOSED]
        if method != b"OPTIONS" or b"access-control-request-method" not in named:
            return pairs, False
        wanted = named.get(b"access-control-request-headers", b"")
        return [*pairs, _METHODS, (b"access-control-allow-headers", wanted), _MAX_AGE], True
