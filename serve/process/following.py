"""How a worker follows the record of changes: a cheap look, many times a second, and the work where it has changed."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable

from serve.approval.desk import Desk
from serve.approval.enact import catch_up
from serve.errors import ApiError
from serve.store.changes import Changes, Managed

log = logging.getLogger("trimtab.changes")
_LOOK_S = 0.05
_RETRY_S = 1.0
_TROUBLES = (OSError, RuntimeError, ValueError, ImportError, sqlite3.Error, ApiError)


class Following:
    """One worker's eye on the record. A step that a killed process left half-way is finished by whoever sees it."""

    def __init__(self, changes: Changes) -> None:
        self._changes, self._watch = changes, changes.watch()
        self._due, self._said = 0.0, ""

    def catch_up(self, desk: Desk) -> Managed:
        """Finish what was begun, put into force what is due, and return what is in force. Blocks.

        What cannot be done now is logged and tried again; what is in force stays.
        """
        self._watch.changed()
        if self._changes.page(limit=1):
            try:
                self._due = catch_up(desk, wait=True)
            except _TROUBLES as error:
                self.retry(f"a change is not in force yet: {error}")
        else:
            self._due = float("inf")
        return self._changes.managed()

    async def news(self, desk: Callable[[], Desk]) -> Managed | None:
        """Wait a moment; what is in force now, where that may be something else than before."""
        await asyncio.sleep(_LOOK_S)
        try:
            if not self._watch.changed() and time.time() < self._due:
                return None
            self._due = await asyncio.to_thread(catch_up, desk())
            self._said = ""
        except _TROUBLES as error:
            self.retry(f"a change is not in force yet: {error}")
        return await asyncio.to_thread(self._changes.managed)

    def retry(self, why: str) -> None:
        """Say once what went wrong, and look again soon."""
        self._due = time.time() + _RETRY_S
        if why != self._said:
            log.error("%s", why)
        self._said = why

    def close(self) -> None:
        """Let go of the record."""
        self._watch.close()
