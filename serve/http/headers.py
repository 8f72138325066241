"""Which headers go to an engine, and which of an engine's come back."""

from __future__ import annotations

from collections.abc import Iterable

_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding"
    b" upgrade".split()
)
# The engine's own affairs, or its word on a host that is not ours.
_ENGINES_OWN = frozenset(b"alt-svc date server set-cookie strict-transport-security".split())
_DROPPED_KEEPING_LENGTH = _HOP_BY_HOP | _ENGINES_OWN
_DROPPED = _DROPPED_KEEPING_LENGTH | {b"content-length"}
_OURS = (b"x-trimtab-", b"access-control-")
_TO_ENGINE = frozenset(
    b"accept content-type idempotency-key openai-beta openai-organization openai-project traceparent tracestate"
    b" user-agent".split()
)

_TO_ENGINE_AS_CLIENT = _TO_ENGINE | {b"authorization"}


def request_headers(
    client: Iterable[tuple[bytes, bytes]], key: str | None = None, *, authorization: bool = False
) -> dict[str, str]:
    """What the engine gets to see of a client's headers (ASGI's pairs): an allow-list.

    A client's X-Request-Id is not among them: engines have taken it for the identity of a request of their own.
    `key` is the engine's own API key. The client's Authorization goes along only where `authorization` says so, and
    never beside a key.
    """
    allowed = _TO_ENGINE_AS_CLIENT if authorization and key is None else _TO_ENGINE
    sent: dict[str, str] = {}
    for raw, value in client:
        name = raw.lower()
        if name not in allowed:
            continue
        text = name.decode("ascii")
        sent[text] = f"{sent[text]}, {value.decode('latin-1')}" if text in sent else value.decode("latin-1")
    if key is not None:
        sent["authorization"] = f"Bearer {key}"
    return sent


def response_headers(engine: Iterable[tuple[bytes, bytes]], *, length: bool = False) -> list[tuple[bytes, bytes]]:
    """What the client gets to see of an engine's headers, as ASGI's pairs.

    All but what concerns one connection only, the engine's host, or us (X-Trimtab-*, CORS). Content-Length stays
    where `length` says that the body is sent as it came.
    """
    pairs = [(name.lower(), value) for name, value in engine]
    dropped = _DROPPED_KEEPING_LENGTH if length else _DROPPED
    if named := [value for name, value in pairs if name == b"connection"]:
        dropped |= {token.strip().lower() for value in named for token in value.split(b",")}
    return [pair for pair in pairs if pair[0] not in dropped and not pair[0].startswith(_OURS)]
