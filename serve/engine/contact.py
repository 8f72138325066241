"""Whether an engine with a single URL answers, for /readyz and the console.

It does not decide about requests: those are sent whatever was found, and learn for themselves.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Literal

from serve.engine import health
from serve.engine.address import Addressing
from serve.engine.relay import Relay
from serve.engine.upstream import TimedOut, UpstreamError

log = logging.getLogger("trimtab.engine")
_WELL_S = 30.0  # between checks while it answers; until then as often as a pool's member is checked
_PATH = "/v1/models"  # costs nothing, and most engines have it; those that have not answer all the same


class Contact:
    """The checks of one engine's URL."""

    def __init__(self, name: str, url: str, addressing: Addressing, headers: Callable[[], Mapping[str, str]]) -> None:
        self.url, self.reason = url, ""
        self.state: Literal["unknown", "ready", "down"] = "unknown"
        self._name, self._addressing, self._headers = name, addressing, headers
        self._due = 0.0
        self._checking: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """Whether it answered when it was last asked."""
        return self.state == "ready"

    def check(self, relay: Relay) -> None:
        """Ask it in the background, if it is time to."""
        if time.monotonic() >= self._due and (self._checking is None or self._checking.done()):
            self._checking = asyncio.create_task(self._ask(relay))

    def suspect(self) -> None:
        """Let it be asked soon: a request has failed."""
        self._due = 0.0

    def stop(self) -> None:
        """Give up a check that is under way."""
        if self._checking is not None:
            self._checking.cancel()

    async def _ask(self, relay: Relay) -> None:
        reason = detail = ""
        url = self._addressing.at(self.url, _PATH)
        try:
            async with asyncio.timeout(health.PATIENCE_S):
                answer = await relay.send("GET", url, self._headers(), None, ca_file=self._addressing.ca_file)
                await answer.done()
            if answer.status >= 500:
                reason = f"It answers {answer.status}."
        except (TimeoutError, TimedOut):
            reason = f"It does not answer within {health.PATIENCE_S:g} s."
        except UpstreamError as error:
            reason, detail = str(error), _detail(error.cause)
        if not reason and "x-trimtab-policy" in answer.headers and self.state == "unknown":
            log.warning(
                "engine %s: %s is a Trimtab too, whose policy %s applies after ours; its engine's URL would avoid that",
                self._name, self.url, answer.headers["x-trimtab-policy"],
            )  # fmt: skip
        if reason and reason != self.reason:
            log.warning("engine %s: no answer from %s: %s%s", self._name, self.url, reason, detail)
        elif self.state == "down" and not reason:
            log.info("engine %s: %s answers", self._name, self.url)
        self.state, self.reason = ("down", reason) if reason else ("ready", "")
        self._due = time.monotonic() + (0.0 if reason else _WELL_S)


def _detail(cause: BaseException | None) -> str:
    """The system's word for it."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f" ({cause.verify_message})"
    if isinstance(cause, socket.gaierror):
        return f" ({cause.strerror})"
    if isinstance(cause, OSError) and cause.errno:
        return f" ({os.strerror(cause.errno)})"
    return ""
