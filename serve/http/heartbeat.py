"""Comments in a stream while an engine thinks, for proxies that close connections on which nothing happens."""

from __future__ import annotations

import asyncio

from serve.http.call import Call
from serve.http.head import EVENTS, Pairs

_BEAT = b": waiting for the engine\n\n"
_HEAD = Pairs(EVENTS)
_BOUNDARIES = (b"\n\n", b"\r\n\r\n")


def heartbeat(call: Call, seconds: float) -> None:
    """Begin the heartbeat of a stream, inside the call's block, whose end ends it."""
    call.pulse = Heartbeat(call, seconds).start()


class Heartbeat:
    """Sends a comment after each `seconds` in which nothing was passed on.

    A stream whose engine has not begun to answer is begun: what then goes wrong is its last event, no status. A comment
    never stands inside an event.
    """

    def __init__(self, call: Call, seconds: float) -> None:
        self._call, self._seconds = call, seconds
        self._last: bytes = b""
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> Heartbeat:
        """Begin to wait for silence."""
        self._last = self._call.passed()
        self._wait()
        return self

    def stop(self) -> None:
        """Send no more comments."""
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._tick)

    def _tick(self) -> None:
        # The same object: nothing came since. That costs a chunk that does come nothing.
        last, call = self._call.passed(), self._call
        if last is self._last and (not last or last.endswith(_BOUNDARIES)) and not call.ended:
            if not call.started:
                call.start(200, _HEAD, events=True)
            if call.events:
                call.feed(_BEAT)
        self._last = last
        self._wait()
