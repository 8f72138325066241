"""What a worker serves from: the service of the configuration in force, and its replacement by the next one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from serve import metrics
from serve.api.catalog import listed
from serve.approval.desk import Desk
from serve.chat.indexes import Indexes
from serve.chat.recorder import Recorder, recorder
from serve.chat.service import Service
from serve.chat.warmup import Done, warm
from serve.config import Config, ConfigError
from serve.configure.grants import grants
from serve.configure.reader import resolve
from serve.engine.live import LiveEngine
from serve.engine.relay import Relay
from serve.engine.upstream import UpstreamError
from serve.engine.watch import Checked
from serve.engine.window import learn_version, learn_window
from serve.errors import Unavailable
from serve.http.gate import Gate
from serve.http.listener import Listener
from serve.http.pace import Pace
from serve.limits.ledgers import Ledgers
from serve.limits.limiter import Limiter
from serve.observe import logs, tracing
from serve.process.following import Following
from serve.process.handover import Sender
from serve.process.loading import desk_of, loaded
from serve.process.parts import Parts, drain_s, parts_of, recorded, relay_of, stored, timeouts, turns_of
from serve.store.place import open_traces
from serve.store.traces import Traces

log = logging.getLogger("trimtab.worker")
_PATIENCE_S = 5.0  # for an engine's list of models
_TRIAL_S = 60.0
_PROBE_S = 30.0  # between tries to learn what an engine by URL is


class Worker:
    """Owns the worker's relay, traces and current service."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self._argv: list[str] = told["config"]
        self._following: Following | None = None  # of changes; a server that tries one follows none
        self._replacing = asyncio.Lock()  # a reload, or a change that comes into force
        self._report = told.get("report_fd")
        self._revision = 0
        self._engines: Mapping[str, Any] = {}
        self._source, config = loaded(self._argv, told)
        indexes = Indexes(config.indexes)
        if not self._source.flags.trial:
            config = self._caught_up(config, indexes)
        self.gate = Gate(config)
        self.server: Listener | None = None  # that we are, once it exists
        self.sender: Sender | None = None
        # What requests that began before a reload may still be using.
        self._retired: list[Relay | Traces | Indexes] = []
        self._ended: list[Recorder] = []  # of earlier configurations, for requests that they began
        self.pace = Pace()
        relay = relay_of(config, self.pace)
        self.ledgers = Ledgers()
        parts, traces = parts_of(config, {}, indexes, relay), open_traces(config)
        records = recorder(config)
        logs.install(config.server.log)
        self.tracing = tracing.start(config.server.otlp)
        limiter, turns = self.ledgers.limiter(config), turns_of(config)
        self.service = Service(config, *parts, relay, traces, indexes, limiter, turns, self.tracing, records)
        self._changed = asyncio.Event()  # an engine's state or the configuration: there may be a prefix to warm
        self._warmed: Done = set()
        self._state(told)

    async def tell(self, told: Mapping[str, Any]) -> None:
        """A line from the parent: the engines' states, perhaps the word to load the configuration again."""
        if told["revision"] <= self._revision:
            return
        if told.get("reload"):
            async with self._replacing:
                await self._reload(told)
        self._state(told)

    async def _reload(self, told: Mapping[str, Any]) -> None:
        try:
            old = self.service
            source, config = await asyncio.to_thread(loaded, self._argv, {**told, "grants": grants(old.config)})
            indexes = old.indexes if config.indexes == old.config.indexes else Indexes(config.indexes)
            relay = old.relay if timeouts(config) == timeouts(old.config) else relay_of(config, self.pace)
            parts = await asyncio.to_thread(parts_of, config, old.engines, indexes, relay)
            limiter = self.ledgers.limiter(config)
            same = stored(config) == stored(old.config)
            traces = old.traces if same else await asyncio.to_thread(open_traces, config)
            same = recorded(config) == recorded(old.config)
            records = old.recorder if same else await asyncio.to_thread(recorder, config)
        except ConfigError as error:
            self.report({"error": str(error)})
        else:
            self._source = source
            self._replace(config, parts, relay, indexes, limiter, traces, records)
            self.report({"reloaded": told["revision"]})

    def desk(self) -> Desk:
        """Where changes of rules and policies are made, beside the configuration in force.

        Raises:
            Unavailable: this server tries a change, and makes none.
        """
        if self._source.flags.trial:
            raise Unavailable("this server only tries a change (--trial): it accepts none", code="no_changes")
        return desk_of(self._source, self.service.config, self.service.indexes)

    def _caught_up(self, config: Config, indexes: Indexes) -> Config:
        """The configuration once the change is in force that a killed process may have left half-way."""
        desk = desk_of(self._source, config, indexes)
        self._following = Following(desk.changes)
        managed = self._following.catch_up(desk)
        return resolve(self._source, managed) if managed.revision != config.revision else config

    async def follow_changes(self) -> None:
        """Put into force what has been approved anywhere, or is due, within a fraction of a second."""
        if self._following is None:
            await asyncio.sleep(_TRIAL_S)
            return
        managed = await self._following.news(self.desk)
        if managed is None or managed.revision == self.service.config.revision:
            return
        async with self._replacing:
            old = self.service
            try:
                config = await asyncio.to_thread(resolve, self._source, managed)
            except ConfigError as error:
                self._following.retry(f"managed policies of revision {managed.revision} are not in force here: {error}")
                return
            changed = {n: p for n, p in config.policies.items() if old.config.policies.get(n) != p}
            _, stages = await asyncio.to_thread(
                parts_of, replace(config, policies=changed), old.engines, old.indexes, old.relay
            )
            kept = {name: old.stages[name] for name in config.policies if name not in changed}
            self.service = replace(old, config=config, stages={**kept, **stages})
            if old.recorder is not None:
                old.recorder.began(config)
        log.info("managed policies of revision %d are in force", managed.revision)
        self._changed.set()

    def _replace(
        self,
        config: Config,
        parts: Parts,
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
        turns = old.turns if same else turns_of(config)
        self.service = Service(config, *parts, relay, traces, indexes, limiter, turns, self.tracing, records)
        self.gate = Gate(config)
        for it in self.checked():
            it.check(relay)  # a new one is not ready before
        if self.server is not None:
            if self.server.tls is not None and config.server.tls_cert:  # the files may be new under their old names
                self.server.tls.load_cert_chain(config.server.tls_cert, config.server.tls_key or None)
            self.server.drain_s = drain_s(config)

    def checked(self) -> Iterator[Checked]:
        """What is to be asked in the background how it is."""
        return (it for engine in self.service.engines.values() if (it := engine.checked) is not None)

    async def close(self) -> None:
        """Close connections, stores and indexes, those of earlier configurations too."""
        if self._following is not None:
            self._following.close()
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
        if self.sender is not None:
            self.hand_over_by(self.sender, told)
        for name, state in self._engines.items():
            if name in self.service.engines:
                self.service.engines[name].update(state)
        self._changed.set()

    def hand_over_by(self, sender: Sender, told: Mapping[str, Any]) -> None:
        """Hand large bodies over, where what the parent has told us says that somebody takes them."""
        self.sender, sender.ready = sender, bool(told.get("large"))
        metrics.beside = told.get("metrics", "")

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
        await learn_window(engine, relay, _PATIENCE_S)
        await learn_version(engine, relay, _PATIENCE_S)
    except UpstreamError as error:
        # Not knowing costs nothing but the context's length and a refusal by name; the request will show what is wrong.
        log.debug("engine %s: %s (%r)", engine.spec.name, error, error.cause)
