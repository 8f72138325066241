"""`check.toml`: the limits that a policy must keep within before it is released.

arm = "careful"              # which arm is checked; default: the first that is not the baseline

[[limit]]
measure = "over_refusal"     # a measure of the report
of = "difference"            # to the baseline; "value": of the arm itself
at_most = 0.02               # or at_least
by = "interval"              # the end of the 95% interval that is worse; "point": the estimate
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from trainers.evaluation.measure.measures import ANSWERED, MEASURES


class CheckError(Exception):
    """The check's file is wrong; the message says where."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit. Exactly one of `at_most` and `at_least` is given; shares are 0.02 for two points, times in seconds."""

    measure: str
    of: Literal["value", "difference"] = "value"
    at_most: float | None = None
    at_least: float | None = None
    by: Literal["interval", "point"] = "interval"
    statistic: Literal["mean", "median"] = "mean"  # median: p50, of a difference that of the paired differences
    kinds: tuple[str, ...] = ()  # only questions of these kinds
    questions: int = 0  # fewer are too few to say, whatever they say

    @property
    def name(self) -> str:
        """The limit in a few words, as a test case is called."""
        what = f"p50 of {self.measure}" if self.statistic == "median" else self.measure
        bound = f"at most {self.at_most:g}" if self.at_most is not None else f"at least {self.at_least:g}"
        where = f" of {'/'.join(self.kinds)}" if self.kinds else ""
        return f"{what}{where}, {self.of}: {bound} by the {self.by}"


@dataclass(frozen=True, slots=True)
class Check:
    """The limits of a file, and the file's SHA-256."""

    limits: tuple[Limit, ...]
    arm: str = ""
    sha256: str = ""


def read_check(path: Path) -> Check:
    """The check in a file.

    Raises:
        CheckError: it cannot be read, or a limit is none.
    """
    try:
        data = path.read_bytes()
        values = tomllib.loads(data.decode("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CheckError(f"{path}: {error}") from None
    if unknown := sorted(values.keys() - {"arm", "limit"}):
        raise CheckError(f"{path}: {unknown[0]} is unknown; valid are arm and [[limit]]")
    rows, arm = values.get("limit"), values.get("arm", "")
    if not isinstance(rows, list) or not rows:
        raise CheckError(f"{path}: there is no [[limit]]")
    if not isinstance(arm, str):
        raise CheckError(f"{path}: arm must be the name of an arm")
    limits = tuple(_limit(row, f"{path}: limit {number}") for number, row in enumerate(rows, 1))
    return Check(limits, arm, hashlib.sha256(data).hexdigest())


def _limit(row: Mapping[str, Any], where: str) -> Limit:
    hints = get_type_hints(Limit)
    given: dict[str, Any] = {}
    for name, value in row.items():
        if name not in hints:
            raise CheckError(f"{where}: {name} is unknown; valid are {', '.join(f.name for f in fields(Limit))}")
        given[name] = _typed(name, value, hints[name], where)
    measure = given.get("measure")
    if measure not in MEASURES and measure != ANSWERED.name:
        raise CheckError(f"{where}: no measure {measure!r}; valid are {', '.join([*MEASURES, ANSWERED.name])}")
    if (given.get("at_most") is None) == (given.get("at_least") is None):
        raise CheckError(f"{where}: needs one of at_most and at_least")
    return Limit(**given)


def _typed(name: str, value: Any, hint: Any, where: str) -> Any:
    if name in ("at_most", "at_least") and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if name == "kinds" and isinstance(value, list) and all(isinstance(kind, str) for kind in value):
        return tuple(value)
    if name == "questions" and isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    if isinstance(value, str) and (hint is str or value in choices):
        return value
    valid = f"; valid are {', '.join(choices)}" if choices else ""
    raise CheckError(f"{where}: {name} = {value!r} is not possible{valid}")
