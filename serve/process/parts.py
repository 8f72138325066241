"""What a service is made of, from a configuration."""

from __future__ import annotations

from collections.abc import Mapping

from prompt_opt.core import Stage, Supplies
from prompt_opt.pipeline import build as build_stages
from serve.chat.indexes import Indexes
from serve.chat.rewriters import Rewriters
from serve.config import Config
from serve.engine.live import LiveEngine
from serve.engine.relay import Relay
from serve.http.pace import Pace
from serve.limits.turns import Turns

Parts = tuple[Mapping[str, LiveEngine], Mapping[str, tuple[Stage, ...]]]


def parts_of(config: Config, old: Mapping[str, LiveEngine], indexes: Indexes, relay: Relay) -> Parts:
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


def turns_of(config: Config) -> Turns:
    """Room for the large bodies that a worker works on at once."""
    return Turns(int(config.server.large_bodies_mb * 2**20))


def stored(config: Config) -> tuple[object, ...]:
    """What a store of traces must be opened again for."""
    return config.store, config.state_dir, config.server.trace_ttl_s


def recorded(config: Config) -> tuple[object, ...]:
    """What the account of requests must be opened again for."""
    return config.account, config.store, config.state_dir


def timeouts(config: Config) -> tuple[float, float]:
    """What a relay must be made again for."""
    return config.server.connect_s, config.server.timeout_s


def relay_of(config: Config, pace: Pace) -> Relay:
    """The connections to engines."""
    return Relay(connect_s=config.server.connect_s, timeout_s=config.server.timeout_s, pace=pace)
