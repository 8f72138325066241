"""Which ledger a configuration asks for, opened once per process."""

from __future__ import annotations

import os
from collections.abc import Mapping

from serve.config import Config, ConfigError
from serve.limits.ledger import Ledger
from serve.limits.limiter import Limiter
from serve.limits.local import LocalLedger
from serve.limits.shared import SharedLedger

FILE = "limits.bin"  # in the state folder: a restart forgets no budget


class Ledgers:
    """A worker's ledgers. The local one stays open over reloads, and what requests in flight hold stays counted."""

    def __init__(self) -> None:
        self._local: LocalLedger | None = None
        self._shared: SharedLedger | None = None
        self._made_for: tuple[object, ...] = ()
        self._retired: list[SharedLedger] = []

    def limiter(self, config: Config, environ: Mapping[str, str] = os.environ) -> Limiter | None:
        """The limiter of a configuration; None where it limits nothing.

        Raises:
            ConfigError: the counts cannot be kept in the state folder.
        """
        limits = config.limits
        if not limits.on:
            return None
        path = config.state_dir / FILE
        try:
            self._local = self._local or LocalLedger(path)
            ledger: Ledger = self._local
            if limits.redis_env:
                ledger = self._redis(environ[limits.redis_env], config)
            return Limiter(limits, config.keys, ledger)
        except OSError as error:
            raise ConfigError(f"limits: {path}: cannot be written: {error.strerror or error}") from None

    def _redis(self, url: str, config: Config) -> SharedLedger:
        assert self._local is not None
        limits = config.limits
        wanted = (url, limits.redis_s, limits.on_error)
        if self._shared is None or self._made_for != wanted:
            self._retired += [self._shared] if self._shared is not None else []
            self._shared = SharedLedger(url, self._local, timeout_s=limits.redis_s, on_error=limits.on_error)
            self._made_for = wanted
        return self._shared

    def sweep(self) -> None:
        """Forget what workers held that have died."""
        if self._local is not None:
            self._local.sweep()

    async def close(self) -> None:
        """Give back what is leased, and hand in what is owed to Redis."""
        self.sweep()
        for ledger in (*self._retired, self._shared):
            if ledger is not None:
                await ledger.close()
