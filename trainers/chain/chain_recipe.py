"""The recipe of a chain: its steps in their order, what they share, and how their models are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from trainers.chain import pretraining_step
from trainers.methods.table import METHODS
from trainers.run.recipe import RECIPES, RecipeError, at_home, fill, override, read_values

CHAINS = RECIPES / "chains"
REFERENCE = "step:"  # in a step's keys: what an earlier step made
DATA = ("train", "heldout", "ptx_data", "pairs", "train_file")  # keys for which that is its rows, not its model
SCORES = ("reward_model", "critic", "supervisor")  # keys that need a model which scores


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How the steps' models are compared: by the rewards of their answers to prompts that no step learned from.

    Attributes:
        reward: the step whose reward model judges; None compares nothing.
        heldout: a file of prompts; None holds `heldout_fraction` of the last step's prompts out.
        prompts: at most so many of them are answered, `samples` times each.
        batch: prompts answered together.
    """

    reward: str | None = None
    heldout: str | None = None
    heldout_fraction: float = 0.1
    prompts: int = 200
    samples: int = 1
    temperature: float = 1.0
    max_new_tokens: int = 128
    batch: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Step:
    """One training. `values`: the keys of its method's recipe; `step:NAME` in one stands for what that step made."""

    name: str
    method: str
    values: Mapping[str, Any]

    @property
    def kind(self) -> Any:
        """The dataclass of its recipe."""
        return pretraining_step.Recipe if self.method == "cpt" else METHODS[self.method].recipe

    @property
    def scores(self) -> bool:
        """Whether its model scores answers instead of giving them."""
        return METHODS[self.method].export.endswith(":SCORE")

    @property
    def references(self) -> dict[str, str]:
        """The keys that name an earlier step, with that step's name."""
        texts = {key: value for key, value in self.values.items() if isinstance(value, str)}
        return {key: text.removeprefix(REFERENCE) for key, text in texts.items() if text.startswith(REFERENCE)}

    def model(self, out: Path) -> Path:
        """The folder of its model: where it trains a LoRA adapter, the merged one."""
        return out / self.name / ("merged" if self.values.get("lora_rank") else "final")

    def rows(self, out: Path) -> Path:
        """What it learns from: its data without the prompts that are held out."""
        return out / "data" / f"{self.name}.jsonl"


@dataclass(frozen=True)
class Chain:
    """The steps in their order, and how they are compared."""

    comparison: Comparison
    steps: tuple[Step, ...]

    def __getitem__(self, name: str) -> Step:
        return next(step for step in self.steps if step.name == name)

    def recipe(self, step: Step, out: Path) -> Any:
        """The step's recipe, with folders in the place of references; RecipeError for a wrong key."""
        values = dict(step.values)
        for key, name in step.references.items():
            values[key] = str(self[name].rows(out) if key in DATA else self[name].model(out))
        try:
            return fill(step.kind, values)
        except RecipeError as error:
            raise RecipeError(f"step {step.name}: {error}") from error


def read_chain(path: Path, overrides: Sequence[str] = ()) -> Chain:
    """The chain at `path`, or the shipped one of that name; `STEP.key=value` is laid over it.

    Raises:
        RecipeError: the recipe is missing or wrong; the message names the file, the step and the key.
    """
    shipped = CHAINS / f"{path}.yaml"
    if not path.is_file() and shipped.is_file():
        path = shipped
    try:
        values = read_values(path)
        chain = chain_of(_overridden(_sections(values), overrides), shipped=path is shipped)
        check_references(chain)
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
    sections = {"compare": values.get("compare") or {}, "every": values.get("every") or {}} | steps
    for name, keys in sections.items():
        if not isinstance(keys, dict):
            raise RecipeError(f"{name}: a mapping of keys to values is wanted here")
        if not str(name).replace("_", "").replace("-", "").isalnum() or name in ("data", "final"):
            raise RecipeError(f"step {name!r}: a name has letters, digits, - and _, and is neither data nor final")
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
    judge = chain.comparison.reward
    if judge is not None and (judge not in earlier or not earlier[judge].scores):
        names = ", ".join(step.name for step in chain.steps if step.scores) or "there is none"
        raise RecipeError(f"compare: reward: {judge!r} is no step that makes a reward model ({names})")
    if judge is not None and sum(not step.scores for step in chain.steps) < 2:
        raise RecipeError("compare: reward: two steps or more must make models that answer; set it to null")
