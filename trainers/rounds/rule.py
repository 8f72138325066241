"""A function of the operator's own, by the file that it is in."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainers.run.recipe import RecipeError


def load_rule(name: str) -> Callable[..., Any]:
    """The function that "FILE.py:NAME" stands for; RecipeError where there is none.

    The file is code that runs here, as the recipe's author means it to.
    """
    source, _, attribute = name.rpartition(":")
    if not source.endswith(".py"):
        raise RecipeError(f"rule {name}: must be FILE.py:FUNCTION")
    path = Path(source)
    if not path.is_file():
        raise RecipeError(f"rule {name}: no such file")
    spec = importlib.util.spec_from_file_location(f"rule_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise RecipeError(f"rule {name}: not Python")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, attribute, None)
    if not callable(function):
        raise RecipeError(f"rule {name}: {path} has no function {attribute!r}")
    return function  # type: ignore[no-any-return]


def rated(rule: Callable[..., Any], name: str, prompt: Any, text: str, what: str) -> float:
    """The rule's number for an answer; RecipeError, naming `what` it was for, where it returns none that is finite."""
    found = rule(prompt, text)
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise RecipeError(f"rule {name} returned {found!r} for {what}, which is no finite number")
    return float(found)
