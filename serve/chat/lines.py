"""What a request travels."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from serve.chat.record import Record
from serve.chat.service import Service
from serve.http.call import Call

Line = Callable[[Service, Call, Record], Awaitable[None]]  # from its body to the last byte of its answer
