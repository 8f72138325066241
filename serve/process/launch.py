"""One start of an engine, and what every launcher needs to write its command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# No folder of a model's neighbours may shadow a module, no engine may wait for a network it doesn't need.
QUIET = {"PYTHONSAFEPATH": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


@dataclass(frozen=True, slots=True)
class Launch:
    """One start of an engine.

    `model_name` is the only name that the engine accepts for its model. Each of `health_paths` is asked only where
    the engine doesn't know the one before.
    """

    what: str  # for people: "transformers serve"
    argv: tuple[str, ...]
    env: Mapping[str, str]  # beside our own
    cwd: str | None
    base_url: str
    health_paths: tuple[str, ...]
    model_name: str
    kind: str = ""  # of engine, where the launcher's name does not say it
