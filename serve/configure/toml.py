"""A TOML file whose values are checked as they are taken out of it; a mistake says its line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from serve.config import ConfigError

T = TypeVar("T")


class Toml:
    """One file. Where several tables share a name ([[key]]), `row` says which of them is being read."""

    def __init__(self, text: str, where: str) -> None:
        self._text, self.where = text, where
        self.row = 0
        try:
            self.values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{where}: {error}") from None

    def fail(self, section: str, key: str, message: str) -> ConfigError:
        """The error to raise, with the line of that key or section."""
        line = self._line(section, key)
        spot = f"{self.where}:{line}" if line else self.where
        name = ".".join(part for part in (section, key) if part)
        name = name if re.fullmatch(r"[!-~]*", name) else repr(name)
        return ConfigError(f"{spot}: {name}: {message}" if name else f"{spot}: {message}")

    def _line(self, section: str, key: str) -> int:
        """The line of `key` in `[section]`; of the section's own header if the key has none; 0 if neither is found."""
        current, header, rows = "", 0, 0
        for number, line in enumerate(self._text.splitlines(), 1):
            if match := re.match(r"\s*(\[\[?)\s*([^\]]+?)\s*\]", line):
                current = match[2].replace('"', "").replace("'", "")
                if match[1] == "[[" and current == section:
                    rows += 1
                    current = section if rows == self.row + 1 else ""
                inside = current.startswith(f"{section}.") and not header
                header = number if current == section or inside else header
            elif current == section and key and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", line):
                return number
        parent, _, last = section.rpartition(".")
        return header or (self._line(parent, last) if parent else 0)

    def section(self, name: str) -> dict[str, Any]:
        """The tables under a name; {} where there is none."""
        table = self.values.get(name, {})
        if not isinstance(table, dict):
            raise self.fail("", name, f"must be a table: [{name}.NAME]")
        return table

    def known(self, section: str, table: Any, valid: Iterable[str], spot: str = "") -> None:
        """Raises ConfigError for a key that is not valid. `spot` is where it stands, if not in a line of its own."""
        if not isinstance(table, dict):
            raise self.fail(section, "", "must be a table")
        for key in table:
            if key not in valid:
                choices = ", ".join(valid) or "none"
                # An unknown section has its own header line; an unknown key stands in its section.
                if spot:
                    raise self.fail(section, spot, f"{key} is unknown; valid are {choices}")
                where = (key, "") if not section and self._line(key, "") else (section, key)
                raise self.fail(where[0], where[1], f"unknown; valid are {choices}")

    def name(self, section: str, name: str) -> None:
        """Policies and engines are named in headers, metrics and messages."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,63}", name):
            raise self.fail(section, "", "a name is made of letters, digits and _ . : / - (64 at most)")

    def names(self, section: str, key: str, names: Iterable[str], valid: Iterable[str], noun: str) -> None:
        """Raises ConfigError for a name that is not valid; the message lists those that are."""
        for name in names:
            if name not in valid:
                raise self.fail(section, key, f"no {noun} {name!r}; valid are {', '.join(sorted(valid)) or 'none'}")

    def one(self, section: str, key: str, name: Any, valid: Mapping[str, T], noun: str) -> T:
        """What a name stands for. Raises ConfigError where it is none; the message lists the valid ones."""
        if not isinstance(name, str) or name not in valid:
            raise self.fail(section, key, f"no {noun} {name!r}; valid are {', '.join(sorted(valid)) or 'none'}")
        return valid[name]

    def fill(self, cls: type[T], section: str, table: Any, spot: str = "", **given: Any) -> T:
        """An instance of `cls` from a table: keys and types checked, missing ones by default."""
        hints = get_type_hints(cls)
        names = [f.name for f in fields(cls) if f.name not in given]  # type: ignore[arg-type]
        self.known(section, table, names, spot)
        for key, value in table.items():
            try:
                given[key] = _typed(value, hints[key])
            except TypeError as error:
                raise self.fail(section, spot or key, str(error)) from None
        try:
            return cls(**given)
        except ValueError as error:
            raise self.fail(section, spot, str(error)) from None
        except TypeError as error:
            missing = re.findall(r"'(\w+)'", str(error))
            raise self.fail(section, spot, f"needs {', '.join(missing)}") from None


def _typed(value: Any, hint: Any) -> Any:
    """`value` as `hint` wants it (an int may stand for a float, a list for a tuple); TypeError otherwise."""
    options = get_args(hint)
    if get_origin(hint) is Literal:
        if value in options:
            return value
        raise TypeError(f"{value!r}: valid are {', '.join(repr(o) for o in options if o)}")
    if type(None) in options:
        return _typed(value, next(o for o in options if o is not type(None)))
    if get_origin(hint) is tuple:
        if isinstance(value, (list, tuple)) and all(isinstance(v, options[0]) for v in value):
            return tuple(value)
        raise TypeError(f"must be a list of {options[0].__name__}")
    if not isinstance(hint, type):
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise TypeError(f"must be {'an integer' if hint is int else 'a ' + hint.__name__}")


def given(**values: Any) -> dict[str, Any]:
    """Those that somebody has given."""
    return {name: value for name, value in values.items() if value is not None}
