"""Which headers go to an engine, and which of an engine's come back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache

_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding"
    b" upgrade".split()
)
# The engine's own affairs, its word on a host that is not ours, or what every answer of ours says.
_ENGINES_OWN = frozenset(b"alt-svc date server set-cookie strict-transport-security x-content-type-options".split())
NOSNIFF = (b"x-content-type-options", b"nosniff")  # of every answer
_SANDBOX = (b"content-security-policy", b"default-src 'none'; sandbox")  # of an engine's page, which stands on our host
_DROPPED_KEEPING_LENGTH = _HOP_BY_HOP | _ENGINES_OWN
_DROPPED = _DROPPED_KEEPING_LENGTH | {b"content-length"}
_OURS = (b"x-trimtab-", b"access-control-")
_TO_ENGINE = frozenset(
    b"accept anthropic-beta anthropic-version content-type idempotency-key openai-beta traceparent tracestate"
    b" user-agent".split()
)
_ACCOUNT = frozenset({b"openai-organization", b"openai-project"})  # of whoever's key it is
_CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"api-key"})
# What no configuration may send or pass on: it belongs to a connection, to a body, or to whoever's key it is.
RESERVED = frozenset(
    name.decode()
    for name in _HOP_BY_HOP | _CREDENTIALS
    | {b"host", b"content-length", b"content-encoding", b"content-type", b"cookie", b"accept-encoding", b"expect"}
)  # fmt: skip


def request_headers(
    client: Iterable[tuple[bytes, bytes]],
    key: str | None = None,
    *,
    authorization: bool = False,
    key_header: str = "authorization",
    more: frozenset[bytes] = frozenset(),
    fixed: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """What the engine gets to see of a client's headers (ASGI's pairs): an allow-list, and `more` (in lower case).

    A client's X-Request-Id is not among them: engines have taken it for the identity of a request of their own.
    `key` is the engine's own API key, sent as `key_header`. The client's own, in that header or another, goes along
    only where `authorization` says so, and neither it nor its OpenAI-Organization and -Project ever beside a key.
    `fixed` headers replace the client's of the same name (in lower case).
    """
    allowed = _allowed(more, account=key is None, credential=key_header if key is None and authorization else "")
    sent: dict[str, str] = {}
    other = False  # a credential by another header than the engine's
    for raw, value in client:
        name = raw.lower()
        if name in allowed:
            text = name.decode("ascii")
            sent[text] = f"{sent[text]}, {value.decode('latin-1')}" if text in sent else value.decode("latin-1")
        elif name in _CREDENTIALS:
            other = True
    if other and key is None and authorization and key_header not in sent:
        sent |= _credential(client, key_header)
    if fixed:
        sent |= fixed
    if key is not None:
        sent[key_header] = f"Bearer {key}" if key_header == "authorization" else key
    return sent


def _credential(client: Iterable[tuple[bytes, bytes]], key_header: str) -> dict[str, str]:
    """The client's own key, where it came by another API's header, in the one that the engine wants."""
    for raw, value in client:
        if (name := raw.lower()) not in (b"x-api-key", b"authorization"):
            continue
        scheme, _, secret = value.decode("latin-1").strip().rpartition(" ")
        if name == b"x-api-key" and key_header == "authorization" and secret:
            return {key_header: f"Bearer {secret}"}
        if name == b"authorization" and scheme.lower() == "bearer" and secret:
            return {key_header: secret}
    return {}


@lru_cache(256)
def _allowed(more: frozenset[bytes], *, account: bool, credential: str) -> frozenset[bytes]:
    own = frozenset({credential.encode()}) if credential else frozenset()
    return _TO_ENGINE | more | (_ACCOUNT if account else frozenset()) | own


def response_headers(engine: Collection[tuple[bytes, bytes]], *, length: bool = False) -> list[tuple[bytes, bytes]]:
    """What the client gets to see of an engine's headers, as ASGI's pairs.

    All but what concerns one connection only, the engine's host, or us (X-Trimtab-*, CORS). Content-Length stays
    where `length` says that the body is sent as it came. The engine's X-Request-Id is X-Engine-Request-Id here, and
    what an engine that is a Trimtab too has applied, X-Engine-Applied.
    """
    dropped = _DROPPED_KEEPING_LENGTH if length else _DROPPED
    kept: list[tuple[bytes, bytes]] = []
    named: set[bytes] = set()  # by the header Connection: of this connection only
    page = False
    for raw, value in engine:
        name = raw.lower()
        if name in dropped:
            if name == b"connection":
                named |= {token.strip().lower() for token in value.split(b",")}
        elif name == b"x-trimtab-applied":  # the engine is a Trimtab itself, with a policy of its own
            kept.append((b"x-engine-applied", value))
        elif not name.startswith(_OURS):
            if name == b"content-type" and value.find(b"json") < 0 and value.find(b"event-stream") < 0:
                page = True
            kept.append((name if name != b"x-request-id" else b"x-engine-request-id", value))
    if named:
        named.add(b"connection")
        return response_headers([pair for pair in engine if pair[0].lower() not in named], length=length)
    return [*(pair for pair in kept if pair[0] != _SANDBOX[0]), _SANDBOX] if page else kept
