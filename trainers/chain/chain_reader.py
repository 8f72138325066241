"""Reads a chain's recipe, and refuses what could only fail later."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from trainers.chain.chain_recipe import DATA, SCORES, Chain, Comparison, Step
from trainers.methods.table import METHODS
from trainers.run.recipe import RECIPES, RecipeError, at_home, fill, override, read_values, shipped_in

CHAINS = RECIPES / "chains"
TAKEN = ("compare", "every", "data", "final", "recipes")  # folders of OUT and sections of the recipe


def read_chain(path: Path, overrides: Sequence[str] = ()) -> Chain:
    """The chain at `path`, or the shipped one of that name; `STEP.key=value` is laid over it.

    Raises:
        RecipeError: the recipe is missing or wrong; the message names the file, the step and the key.
    """
    shipped = CHAINS / f"{path}.yaml"
    if not path.is_file() and shipped.is_file():
        path = shipped
    if not path.exists():
        raise RecipeError(f"{path}: no such chain; shipped ones are {shipped_in(CHAINS)}")
    try:
        values = read_values(path)
        chain = chain_of(_overridden(_sections(values), overrides), shipped=path is shipped)
        check_references(chain)
        check_comparison(chain)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error
    return chain


Sections = dict[str, dict[str, Any]]


def _sections(values: Mapping[Any, Any]) -> Sections:
    """`compare`, `every` and each step, by their names."""
    if unknown := values.keys() - {"compare", "every", "steps"}:
        raise RecipeError(f"unknown key {min(map(str, unknown))!r}; a chain has compare, every and steps")
    steps = values.get("steps")
    if not isinstance(steps, dict) or not steps:
        raise RecipeError("steps must name one training or more, each with its method and that method's keys")
    for name in steps:
        if not re.fullmatch("[A-Za-z0-9_-]+", str(name)) or name in TAKEN:
            raise RecipeError(f"step {name!r}: a name has letters, digits, - and _, and is none of {', '.join(TAKEN)}")
    sections = {"compare": values.get("compare") or {}, "every": values.get("every") or {}} | steps
    for name, keys in sections.items():
        if not isinstance(keys, dict):
            raise RecipeError(f"{name}: a mapping of keys to values is wanted here")
    return {str(name): dict(keys) for name, keys in sections.items()}


def _overridden(sections: Sections, overrides: Sequence[str]) -> Sections:
    for text in overrides:
        place, value = override(text)
        name, _, key = place.partition(".")
        if name not in sections or not key:
            raise RecipeError(f"--set {text}: NAME.KEY=VALUE, and names are {', '.join(sections)}")
        sections[name][key] = value
    return sections


def chain_of(sections: Sections, shipped: bool) -> Chain:
    """The chain, with `every`'s keys in each step that has such a key."""
    compare, every = sections.pop("compare"), sections.pop("every")
    comparison = fill(Comparison, compare)
    steps = []
    unread = set(every)
    for name, keys in sections.items():
        method = keys.pop("method", None)
        if method not in METHODS:
            raise RecipeError(f"step {name}: no method {method!r}; methods: {', '.join(METHODS)}")
        step = Step(name, method, keys)
        known = {field.name for field in fields(step.kind)}
        unread -= known
        values = {key: value for key, value in every.items() if key in known} | keys
        steps.append(Step(name, method, values | at_home(values) if shipped else values))
    if unread:
        raise RecipeError(f"every: no step has the key {min(unread)!r}")
    return Chain(comparison, tuple(steps))


def check_references(chain: Chain) -> None:
    """RecipeError where a step names one that is not before it, or one that makes the other sort of model."""
    earlier: dict[str, Step] = {}
    for step in chain.steps:
        for key, name in step.references.items():
            if name not in earlier:
                raise RecipeError(f"step {step.name}: {key}: {name!r} is no step before it")
            wants_scores = key in SCORES
            if key not in DATA and earlier[name].scores != wants_scores and not (step.scores and not wants_scores):
                made = "scores answers" if earlier[name].scores else "gives answers"
                raise RecipeError(
                    f"step {step.name}: {key}: the model of step {name} {made}, which is not what {key} is"
                )
        earlier[step.name] = step


def check_comparison(chain: Chain) -> None:
    """RecipeError where the comparison names no reward model, or has numbers that nothing could be compared by."""
    given, judges = chain.comparison, [step.name for step in chain.steps if step.scores]
    if given.reward is None:
        return
    if given.reward not in judges:
        names = ", ".join(judges) or "there is none"
        raise RecipeError(f"compare: reward: {given.reward!r} is no step that makes a reward model ({names})")
    if len(chain.steps) - len(judges) < 2:
        raise RecipeError("compare: reward: two steps or more must make models that answer; set it to null")
    for name in ("prompts", "samples", "max_new_tokens", "batch"):
        if getattr(given, name) < 1:
            raise RecipeError(f"compare: {name} must be at least 1")
    if given.temperature <= 0:
        raise RecipeError("compare: temperature must be above 0")
    if given.heldout is None and not 0 < given.heldout_fraction < 1:
        raise RecipeError("compare: heldout_fraction must be above 0 and below 1, or heldout a file")
