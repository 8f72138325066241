"""What a stage checks its settings against, once, when the configuration is read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prompt_opt.rewriter.settings import Rewriter


@dataclass(frozen=True, slots=True)
class Facts:
    """The part of a configuration that stages refer to by name."""

    indexes: Collection[str] = ()  # of [index.NAME]
    rewriters: Mapping[str, Rewriter] = field(default_factory=dict)  # of [rewriter.NAME]


class SettingError(ValueError):
    """A stage's setting is wrong. `key` is its name in the stage's table, "" for the table as a whole."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def require_known(key: str, names: Iterable[str], valid: Collection[str], noun: str) -> None:
    """Check that each of `names` is among `valid`.

    Raises:
        SettingError: one is not; the message lists the valid names.
    """
    for name in names:
        if name not in valid:
            raise SettingError(key, f"no {noun} {name!r}; valid are {', '.join(sorted(valid)) or 'none'}")
