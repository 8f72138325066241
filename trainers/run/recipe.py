"""Recipes: YAML files that set the keys of a frozen dataclass, and nothing else."""

import difflib
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

R = TypeVar("R")
RECIPES = Path(__file__).parents[1] / "recipes"
PLAIN = {type(None): "null", bool: "true or false", int: "a whole number", float: "a number", str: "text"}


class RecipeError(Exception):
    """The recipe cannot be followed; the message says which key and what would be valid."""


def read_recipe(path: Path, kind: type[R], overrides: Sequence[str] = ()) -> R:
    """The recipe at `path`, or the shipped one of that name, with `key=value` overrides laid over it.

    Raises:
        RecipeError: the recipe is missing or wrong; the message names the file and the key.
    """
    shipped = RECIPES / f"{path}.yaml"
    if not path.is_file() and shipped.is_file():
        path = shipped
    if not path.exists():
        raise RecipeError(f"{path}: no such recipe; shipped ones are {shipped_in(RECIPES)}")
    try:
        values = read_values(path)
        if path is shipped:
            values |= at_home(values)
        return fill(kind, values | dict(map(override, overrides)))
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def shipped_in(folder: Path) -> str:
    """The names of a folder's recipes, for a message."""
    return ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))


def at_home(values: Mapping[Any, Any]) -> dict[str, str]:
    """A shipped recipe's packaged model, where it is installed: its path is relative to the packages' own folder."""
    named = {key: RECIPES.parents[1] / str(values[key]) for key in ("model", "init") if key in values}
    return {key: str(model) for key, model in named.items() if model.is_dir()}


class OnceLoader(yaml.SafeLoader):
    """YAML in which a duplicate key is an error; plain YAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """YAML's mapping; RecipeError for a duplicate key."""
        keys = [key.value for key, _ in node.value]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise RecipeError(f"duplicate key {twice[0]!r}")
        return super().construct_mapping(node, deep)


def read_values(path: Path) -> dict[Any, Any]:
    """What the file says, unchecked."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), OnceLoader)  # noqa: S506 (it is a SafeLoader)
    except FileNotFoundError as error:
        raise RecipeError("no such recipe") from error
    except OSError as error:
        raise RecipeError(str(error.strerror)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"not YAML: {error}") from error
    except RecursionError as error:
        raise RecipeError("nested too deeply") from error
    if not isinstance(values, dict):
        raise RecipeError("a recipe is a mapping of keys to values")
    return values


def override(text: str) -> tuple[str, Any]:
    """`key=value` from the command line; the value is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals:
        raise RecipeError(f"--set {text}: not key=value")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {text}: the value is not YAML") from error


def fill(kind: type[R], values: dict[Any, Any]) -> R:
    """An instance of the dataclass `kind`; unknown, missing and wrongly typed keys are refused by name."""
    valid = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    for key in values:
        if key not in valid:
            near = difflib.get_close_matches(str(key), valid, n=1)
            meant = f" (did you mean {near[0]!r}?)" if near else ""
            raise RecipeError(f"unknown key {key!r}{meant}; valid keys: {', '.join(sorted(valid))}")
    for name, field in valid.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise RecipeError(f"missing key {name!r}")
    return kind(**{key: checked(key, value, hints[key]) for key, value in values.items()})


def checked(key: str, value: Any, hint: Any) -> Any:
    """`value`, if it is what `hint` asks for; whole numbers pass where a float is, and YAML's 1e-5 is a number."""
    found = accept(value, hint)
    if found is MISSING:
        raise RecipeError(f"{key!r} must be {describe(hint)}, not {value!r}")
    return found


def accept(value: Any, hint: Any) -> Any:
    """The value as the hint has it, or MISSING where it does not fit."""
    if is_union(hint):
        return next((found for part in get_args(hint) if (found := accept(value, part)) is not MISSING), MISSING)
    if get_origin(hint) is Literal:
        return value if value in get_args(hint) and not isinstance(value, bool) else MISSING
    if get_origin(hint) in (list, tuple):
        parts = [accept(each, get_args(hint)[0]) for each in value] if isinstance(value, list) else [MISSING]
        return MISSING if MISSING in parts else get_origin(hint)(parts)
    if hint is float and type(value) is str:  # YAML 1.1 reads 1e-5 as text
        try:
            return accept(float(value), float)
        except ValueError:
            return MISSING
    if hint is float and type(value) is int:
        return float(value)
    if hint is float and type(value) is float and not math.isfinite(value):
        return MISSING
    return value if type(value) is hint else MISSING


def describe(hint: Any) -> str:
    """What a type hint asks for, in words."""
    if is_union(hint):
        return " or ".join(describe(part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if get_origin(hint) in (list, tuple):
        return f"a list, each {describe(get_args(hint)[0])}"
    return PLAIN.get(hint, f"of type {hint.__name__}")


def is_union(hint: Any) -> bool:
    """Whether a hint is X | Y or Union[X, Y]."""
    return isinstance(hint, types.UnionType) or get_origin(hint) is Union
