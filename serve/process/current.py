"""What a worker serves from: the service of the configuration in force, and its replacement by the next one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import uvicorn

from prompt_opt.core import Stage, Supplies
from prompt_opt.pipeline import build as build_stages
from serve.api.catalog import listed
from serve.chat.indexes import Indexes
from serve.chat.recorder import Recorder, recorder
from serve.chat.rewriters import Rewriters
from serve.chat.service import Service
from serve.chat.warmup import Done, warm
from serve.config import Config, ConfigError
from serve.configure.flags import parse
from serve.configure.reader import load
from serve.configure.server import refuse_opening
from serve.engine.live import LiveEngine
from serve.engine.relay import Relay
from serve.engine.upstream import UpstreamError
from serve.engine.watch import Checked
from serve.http.gate import Gate
from serve.limits.ledgers import Ledgers
from serve.limits.limiter import Limiter
from serve.limits.turns import Turns
from serve.observe import logs, tracing
from serve.store.place import open_traces
from serve.store.traces import Traces

log = logging.getLogger("trimtab.worker")
_PATIENCE_S = 5.0  # for an engine's list of models
_PROBE_S = 30.0  # between tries to learn what an engine by URL is


class Worker:
    """Owns the worker's relay, traces and current service."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self._argv: list[str] = told["config"]
        self._report = told.get("report_fd")
        self._revision = 0
        self._engines: Mapping[str, Any] = {}
        config = self._load(told)
        self.gate = Gate(config)
        self.settings: uvicorn.Config | None = None  # of the server that we are, once it exists
        # What requests that began before a reload may still be using.
        self._retired: list[Relay | Traces | Indexes] = []
        self._ended: list[Recorder] = []  # of earlier configurations, for requests that they began
        indexes = Indexes(config.indexes)
        relay = _relay(config)
        self.ledgers = Ledgers()
        parts, traces = _parts(config, {}, indexes, relay), open_traces(config)
        records = recorder(config)
        logs.install(config.server.log)
        self.tracing = tracing.start(config.server.otlp)
        self.service = Service(
            config, *parts, relay, traces, indexes, self.ledgers.limiter(config), _turns(config), self.tracing, records
        )
        self._changed = asyncio.Event()  # an engine's state or the configuration: there may be a prefix to warm
        self._warmed: Done = set()
        self._state(told)

    async def tell(self, told: Mapping[str, Any]) -> None:
        """A line from the parent: the engines' states, perhaps the word to load the configuration again."""
        if told["revision"] <= self._revision:
            return
        if told.get("reload"):
            try:
                config = await asyncio.to_thread(self._load, told)
                old = self.service
                indexes = old.indexes if config.indexes == old.config.indexes else Indexes(config.indexes)
                relay = old.relay if _timeouts(config) == _timeouts(old.config) else _relay(config)
                parts = await asyncio.to_thread(_parts, config, old.engines, indexes, relay)
                limiter = self.ledgers.limiter(config)
                same = _stored(config) == _stored(old.config)
                traces = old.traces if same else await asyncio.to_thread(open_traces, config)
                same = _recorded(config) == _recorded(old.config)
                records = old.recorder if same else await asyncio.to_thread(recorder, config)
            except ConfigError as error:
                self.report({"error": str(error)})
            else:
                self._replace(config, parts, relay, indexes, limiter, traces, records)
                self.report({"reloaded": told["revision"]})
        self._state(told)

    def _load(self, told: Mapping[str, Any]) -> Config:
        """The configuration, unless it opens the server further: the file may have changed since the parent read it.

        Raises:
            ConfigError: it is wrong, or too open.
        """
        config = load(parse(self._argv))
        refuse_opening(config, told["host"], keyed=told["keyed"])
        return config

    def _replace(
        self,
        config: Config,
        parts: _Parts,
        relay: Relay,
        indexes: Indexes,
        limiter: Limiter | None,
        traces: Traces,
        records: Recorder | None,
    ) -> None:
        """Serve from now on by another configuration; requests that have begun keep theirs."""
        old = self.service
        if config.server.log != old.config.server.log:
            logs.install(config.server.log)
        if relay is not old.relay:
            self._retired.append(old.relay)
        if traces is not old.traces:
            self._retired.append(old.traces)
        if indexes is not old.indexes:
            self._retired.append(old.indexes)
        if records is old.recorder and records is not None:
            records.began(config)
        elif old.recorder is not None:
            self._ended.append(old.recorder)
        same = config.server.large_bodies_mb == old.config.server.large_bodies_mb
        turns = old.turns if same else _turns(config)
        self.service = Service(config, *parts, relay, traces, indexes, limiter, turns, self.tracing, records)
        self.gate = Gate(config)
        for it in self.checked():
            it.check(relay)  # a new one is not ready before
        if self.settings is not None:
            if self.settings.ssl is not None and config.server.tls_cert:  # the files may be new under their old names
                self.settings.ssl.load_cert_chain(config.server.tls_cert, config.server.tls_key or None)
            self.settings.timeout_graceful_shutdown = drain_s(config)

    def checked(self) -> Iterator[Checked]:
        """What is to be asked in the background how it is."""
        return (it for engine in self.service.engines.values() if (it := engine.checked) is not None)

    async def close(self) -> None:
        """Close connections, stores and indexes, those of earlier configurations too."""
        for owned in (self.service.relay, self.service.traces, self.service.indexes, *self._retired):
            await (owned.close() if isinstance(owned, Relay) else asyncio.to_thread(owned.close))
        for records in (self.service.recorder, *self._ended):
            if records is not None:
                await asyncio.to_thread(records.end)
        await self.ledgers.close()
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)

    def _state(self, told: Mapping[str, Any]) -> None:
        self._revision, self._engines = told["revision"], told["engines"]
        for name, state in self._engines.items():
            if name in self.service.engines:
                self.service.engines[name].update(state)
        self._changed.set()

    def report(self, message: Mapping[str, Any]) -> None:
        """Write a line to the parent, if there is one."""
        if self._report is not None:
            os.write(self._report, json.dumps(message).encode() + b"\n")

    async def listen_to_parent(self) -> None:
        """Take the parent's lines as they come. Its end is ours."""
        reader = asyncio.StreamReader(limit=2**20)
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            await self.tell(json.loads(line))
        os._exit(1)

    async def probe(self) -> None:
        """Learn of engines what their /v1/models says, and warm them up."""
        while True:
            self._changed.clear()
            for engine in self.service.engines.values():
                if engine.ready and engine.url and not engine.names and engine.kind != "transformers":
                    await _learn(engine, self.service.relay)
            await warm(self.service, self._warmed)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _PROBE_S)


async def _learn(engine: LiveEngine, relay: Relay) -> None:
    try:
        engine.learn(await listed(relay, engine, engine.headers(), _PATIENCE_S))
    except UpstreamError as error:
        # Not knowing costs nothing but the context's length; the request itself will show what is wrong.
        log.debug("engine %s: %s (%r)", engine.spec.name, error, error.cause)


_Parts = tuple[Mapping[str, LiveEngine], Mapping[str, tuple[Stage, ...]]]


def _parts(config: Config, old: Mapping[str, LiveEngine], indexes: Indexes, relay: Relay) -> _Parts:
    """A configuration's engines and stages. Engines that have not changed keep their state."""
    engines = {
        name: old[name] if name in old and old[name].spec == spec else LiveEngine(spec)
        for name, spec in config.engines.items()
    }
    for engine in engines.values():
        engine.named = not config.keys
    supplies = Supplies(indexes, Rewriters(config.rewriters, engines, relay).get)
    return engines, {name: build_stages(policy, supplies) for name, policy in config.policies.items()}


def drain_s(config: Config) -> int:
    """Whole seconds that running answers get after SIGTERM; at least one."""
    return max(1, round(config.server.drain_s))


def _turns(config: Config) -> Turns:
    return Turns(int(config.server.large_bodies_mb * 2**20))


def _stored(config: Config) -> tuple[object, ...]:
    return config.store, config.state_dir, config.server.trace_ttl_s


def _recorded(config: Config) -> tuple[object, ...]:
    return config.account, config.store, config.state_dir


def _timeouts(config: Config) -> tuple[float, float]:
    return config.server.connect_s, config.server.timeout_s


def _relay(config: Config) -> Relay:
    return Relay(connect_s=config.server.connect_s, timeout_s=config.server.timeout_s)
