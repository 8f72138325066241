"""How an error is written for a client: by the API that it speaks, or plainly where none is known."""

from __future__ import annotations

import json
from typing import Protocol

from serve.errors import ApiError


class Shape(Protocol):
    """How an error is written for a client."""

    def error(self, failure: ApiError) -> bytes:
        """The body of an answer, in JSON."""

    def error_event(self, failure: ApiError) -> bytes:
        """The last event of a stream of events."""


class Plain:
    """The shape where no API is known: a problem document (RFC 9457)."""

    def error(self, failure: ApiError) -> bytes:
        """`title`, `status` and `detail`."""
        problem = {"title": failure.type, "status": failure.status, "detail": failure.message}
        return json.dumps(problem).encode()

    def error_event(self, failure: ApiError) -> bytes:
        """The same as an event."""
        return b"event: error\ndata: " + self.error(failure) + b"\n\n"


PLAIN = Plain()
