"""What can go wrong with a request. A client gets it in the shape of the API that it speaks (`serve.dialects`).

    ApiError
    ├── BadRequest          400  JSON, types, limits that name a field, what an engine can't do
    ├── Unauthorized        401  no key, or one that nobody has
    ├── Forbidden           403  a key without the right
    ├── NotFound            404  model, policy, path, trace
    ├── Conflict            409  a change that was changed meanwhile
    ├── TooSlow             408  a body that does not come
    ├── TooLarge            413  body
    ├── UnsupportedMedia    415  a compressed body
    ├── TooMany             429  a limit of a key or a tenant is reached
    ├── DiskFull            507  a change for which there is no room
    ├── Unavailable         503  a launched engine that is not ready
    └── UpstreamFailed      502  refused, died or broke the protocol; 504 when it timed out

An upstream's own 4xx and 5xx are no ApiError: they go to the client with their status and body.
"""

from __future__ import annotations

from collections.abc import Mapping


class ApiError(Exception):
    """An error for the client: a message, and by name its type, its code and the parameter that it concerns."""

    status = 500
    type = "server_error"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    unserved = False  # the request may go to another engine: this one cannot have worked on it, or says that it did not
    rules: tuple[str, ...] = ()  # "INDEX/ID" of the rules that refuse the request, or that it cannot be sent without
    sentence = ""  # names what a refusal of ours says in other languages (`serve.chat.refusal`), with these `words`
    words: Mapping[str, str] = {}
    detail = ""  # the English message, where `message` is in another language
    brief = ""  # what a trace says instead of the message, where that quotes an engine, which may quote a prompt

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message, self.code, self.param = message, code, param


class BadRequest(ApiError):
    """The request is wrong in itself."""

    status, type = 400, "invalid_request_error"


class Unauthorized(ApiError):
    """No key, or an unknown one."""

    status, type = 401, "authentication_error"
    headers = ((b"www-authenticate", b"Bearer"),)


class Forbidden(ApiError):
    """A key without the right, or a request that may not be made from there."""

    status, type = 403, "permission_error"


class NotFound(ApiError):
    """No such thing, or none that the caller may see."""

    status, type = 404, "not_found_error"


class Conflict(ApiError):
    """What the request is based on has changed, or is in another state."""

    status, type = 409, "conflict_error"


class TooSlow(ApiError):
    """The body does not come."""

    status, type = 408, "invalid_request_error"


class TooLarge(ApiError):
    """The body is longer than the limit."""

    status, type = 413, "invalid_request_error"


class UnsupportedMedia(ApiError):
    """The body is of a type or coding that is not read."""

    status, type = 415, "invalid_request_error"


class TooMany(ApiError):
    """A limit of the key or its tenant is reached."""

    status, type = 429, "requests"


class DiskFull(ApiError):
    """There is no room for a change; nothing was changed."""

    status = 507

    def __init__(self, message: str = "the server's disk is full: nothing was changed", **named: str) -> None:
        super().__init__(message, **{"code": "disk_full", **named})


class Unavailable(ApiError):
    """The engine is not ready; the same request may succeed soon."""

    status, type = 503, "engine_unavailable"
    unserved = True
    headers = ((b"retry-after", b"1"),)


class UpstreamFailed(ApiError):
    """The engine did not answer as it should; 504 where it did not answer in time."""

    status, type = 502, "upstream_error"

    def __init__(self, message: str, *, timed_out: bool = False, code: str | None = None) -> None:
        super().__init__(message, code=code or ("upstream_timeout" if timed_out else "upstream_failed"))
        if timed_out:
            self.status = 504
