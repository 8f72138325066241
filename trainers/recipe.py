"""Recipes: YAML files that set every key of a frozen dataclass, and nothing else."""

from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

R = TypeVar("R")


class RecipeError(Exception):
    """The recipe cannot be followed; the message says which key and what would be valid."""


def read_recipe(path: Path, kind: type[R]) -> R:
    """The recipe at `path`. Unknown, missing and wrongly typed keys are refused by name."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(f"{path}: no such recipe") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not YAML: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of keys to values")
    try:
        return fill(kind, values)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def fill(kind: type[R], values: dict[str, Any]) -> R:
    """An instance of the dataclass `kind`; whole numbers pass where a float is asked for."""
    valid = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    for key in values:
        if key not in valid:
            raise RecipeError(f"unknown key {key!r}; valid keys: {', '.join(sorted(valid))}")
    for name, field in valid.items():
        if name not in values and field.default is MISSING:
            raise RecipeError(f"missing key {name!r}")
    checked: dict[str, Any] = {}
    for key, value in values.items():
        number = float(value) if hints[key] is float and type(value) is int else value
        if type(number) is not hints[key]:
            raise RecipeError(f"{key!r} must be of type {hints[key].__name__}, not {value!r}")
        checked[key] = number
    return kind(**checked)
