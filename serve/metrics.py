"""What Prometheus sees: requests, stages, times, tokens and upstream errors.

With several workers the supervisor sets PROMETHEUS_MULTIPROC_DIR, and `exposition` adds them up. A single worker counts
in its own memory, which costs less, and adds what the process for large bodies counts in such a folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from typing import ClassVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    multiprocess,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY = CollectorRegistry()
beside = ""  # the folder in which the process for large bodies counts, where this is the only worker
requests = Counter("trimtab_requests", "Requests answered", ["path", "policy", "status"], registry=REGISTRY)
stages = Counter("trimtab_stage_outcomes", "Outcomes of stages", ["stage", "status"], registry=REGISTRY)
stage_seconds = Histogram("trimtab_stage_seconds", "Time in a stage", ["stage"], buckets=_SECONDS, registry=REGISTRY)
rewrites = Counter(
    "trimtab_rewrites", "Rewrites by the gate's verdict", ["rewriter", "verdict", "cached"], registry=REGISTRY
)
first_byte = Histogram(
    "trimtab_first_byte_seconds", "From the request to the engine's first byte", ["policy"], buckets=_SECONDS,
    registry=REGISTRY,
)  # fmt: skip
tokens = Counter("trimtab_tokens", "Tokens as the engine counted them", ["policy", "kind"], registry=REGISTRY)
upstream_errors = Counter("trimtab_upstream_errors", "Failed calls to engines", ["engine", "error"], registry=REGISTRY)
# Of an engine with several URLs, each by its own:
pending = Gauge(
    "trimtab_engine_pending", "Requests that an engine has not answered to their end", ["engine", "url"],
    multiprocess_mode="livesum", registry=REGISTRY,
)  # fmt: skip
ejections = Counter(
    "trimtab_engine_ejections", "Engines taken out of their pool, once per worker", ["engine", "url"],
    registry=REGISTRY,
)  # fmt: skip
retries = Counter(
    "trimtab_engine_retries", "Requests tried again, here, because another engine had not served them",
    ["engine", "url"], registry=REGISTRY,
)  # fmt: skip
tasks = Gauge("trimtab_tasks", "Tasks on the event loops, seconds ago", multiprocess_mode="livesum", registry=REGISTRY)
traces_dropped = Counter("trimtab_traces_dropped", "Traces dropped: queue full or store failed", registry=REGISTRY)
account_dropped = Counter("trimtab_account_dropped", "Entries of requests that the account has lost", registry=REGISTRY)

limited = Counter(
    "trimtab_limited", "Requests refused with 429, by the limit and whose it is", ["limit", "scope"], registry=REGISTRY
)
limits_failed = Counter("trimtab_limits_failed", "Questions to Redis that failed", registry=REGISTRY)
limits_local = Gauge(
    "trimtab_limits_local", "Workers that count limits for their machine alone, since Redis is gone",
    multiprocess_mode="livesum", registry=REGISTRY,
)  # fmt: skip
queue_depth = Gauge(
    "trimtab_queue_depth", "Requests with a large body that wait for their turn", multiprocess_mode="livesum",
    registry=REGISTRY,
)  # fmt: skip


class Tally:
    """A counter's child for what every request counts: a plain number until `flush`, since adding to the child takes a
    lock, and with several workers a mapped file. Used from the event loop alone."""

    __slots__ = ("_child", "_sum")
    _dirty: ClassVar[list[Tally]] = []

    def __init__(self, child: Counter) -> None:
        self._child, self._sum = child, 0

    def inc(self, amount: int = 1) -> None:
        """Count."""
        if not self._sum:
            self._dirty.append(self)
        self._sum += amount

    @classmethod
    def flush(cls) -> None:
        """Add to the counters what has been counted since."""
        for tally in cls._dirty:
            tally._child.inc(tally._sum)
            tally._sum = 0
        cls._dirty.clear()


# The children that every request needs, found without prometheus_client's check of their labels.


@lru_cache(4096)
def answered(path: str, policy: str, status: int) -> Tally:
    """Requests of a path under a policy that ended with a status."""
    return Tally(requests.labels(path, policy, str(status)))


@lru_cache(1024)
def staged(stage: str, status: str) -> Tally:
    """Outcomes of a stage that had a status."""
    return Tally(stages.labels(stage, status))


@lru_cache(256)
def took(stage: str) -> Histogram:
    """Seconds in a stage."""
    return stage_seconds.labels(stage)


@lru_cache(1024)
def waited(policy: str) -> Histogram:
    """Seconds to the first byte under a policy."""
    return first_byte.labels(policy)


@lru_cache(1024)
def counted(policy: str, kind: str) -> Tally:
    """Tokens of a kind (prompt, completion) under a policy."""
    return Tally(tokens.labels(policy, kind))


class _Both(CollectorRegistry):
    """This process's metrics and those of a folder, added up."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """Families by name, samples by name and labels."""
        families = {family.name: family for family in REGISTRY.collect()}
        for family in multiprocess.MultiProcessCollector(None, self._folder).collect():  # type: ignore[no-untyped-call]
            own = families.setdefault(family.name, family)
            if own is not family:
                more = {_identity(sample): sample for sample in family.samples}
                both = [(it, more.pop(_identity(it), None)) for it in own.samples]
                own.samples = [it if other is None else it._replace(value=it.value + other.value) for it, other in both]
                own.samples += more.values()
        yield from families.values()


def _identity(sample: Sample) -> tuple[str, frozenset[tuple[str, str]]]:
    return sample.name, frozenset(sample.labels.items())


def exposition() -> bytes:
    """All metrics of all workers, in the text format."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
    return generate_latest(_Both(beside) if beside else REGISTRY)
