"""Every step's recipe and data, checked before the first step begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from trainers.chain import pretraining_step
from trainers.chain.chain_data import reads
from trainers.chain.chain_recipe import SCORES, Chain, Step
from trainers.data.jsonl import DataError
from trainers.data.messages import Row
from trainers.data.tokens import encode_rows
from trainers.methods.table import METHODS, resolve
from trainers.rounds.rule import load_rule
from trainers.run.findings import examine, report, summary
from trainers.run.keys import Common
from trainers.run.model import load
from trainers.run.recipe import RecipeError
from trainers.run.sets import read_sets


@dataclass(frozen=True)
class Part:
    """A step with its recipe, as it will be trained in `folder`."""

    step: Step
    recipe: Any
    folder: Path

    @property
    def finished(self) -> bool:
        """Whether its run is complete."""
        return (self.folder / "run.json").is_file() and (self.folder / "final").is_dir()

    def train(self, resume: bool) -> dict[str, Any]:
        """Run the step to its end and return what its run.json holds."""
        module = "trainers.chain.pretraining_step" if self.step.method == "cpt" else _module(self.step)
        run: dict[str, Any] = resolve(f"{module}:train")(self.recipe, self.folder, resume)
        return run


def _module(step: Step) -> str:
    return METHODS[step.method].entry.partition(":")[0]


def planned(chain: Chain, rows: Mapping[str, Sequence[Row]], out: Path) -> list[Part]:
    """Each step with its recipe; the step's rows are those of `write_data`.

    Raises:
        RecipeError, DataError: what a step would refuse once the steps before it are done; the message names the step.
    """
    parts = []
    for step in chain.steps:
        try:
            recipe = chain.recipe(step, out)
            if step.name in rows:
                recipe = replace(recipe, train=str(step.rows(out)))
            check(chain, step, recipe)
        except RecipeError as error:
            told = str(error)
            raise RecipeError(told if told.startswith("step ") else f"step {step.name}: {told}") from error
        except DataError as error:
            raise DataError(f"step {step.name}: {error}") from error
        parts.append(Part(step, recipe, out / step.name))
    return parts


def check(chain: Chain, step: Step, recipe: Any) -> None:
    """The recipe by its method's own check, and the data as the model that the chain begins with reads it."""
    if step.method == "cpt":
        if "init" not in step.references:
            pretraining_step.check(recipe)
        for name in ("train_file", "heldout_file"):
            if not Path(getattr(recipe, name)).is_file():
                raise DataError(f"{getattr(recipe, name)}: no such file ({name})")
        return
    METHODS[step.method].check(recipe)
    check_named(step)
    origin, template = begins_with(chain, step)
    if origin == "config":  # its tokenizer is made by the step that makes the model
        return
    seen = replace(_common(recipe), model=origin, chat_template=template)
    learn, heldout, _ = read_sets(seen, reads(step))
    base = load(seen)
    encoded = encode_rows([*learn, *heldout], base.tokenizer, getattr(recipe, "loss_on", "completion"))
    examined = examine(learn, heldout, encoded, base, seen)
    if examined.errors:
        report(examined, base.tokenizer)
        raise DataError(f"{step.values['train']}: {summary(examined.errors)}")


def check_named(step: Step) -> None:
    """RecipeError, DataError for a file or a folder that a key names and that is not there."""
    given = {key: value for key, value in step.values.items() if value and key not in step.references}
    for key in SCORES:
        if key in given and not Path(given[key]).is_dir():
            raise RecipeError(f"{key}: {given[key]}: no such folder")
    for key in ("ptx_data", "pairs", "hard"):
        if key in given and not Path(given[key]).exists():
            raise DataError(f"{given[key]}: no such file ({key})")
    if "rule" in given:
        load_rule(given["rule"])


def _common(recipe: Any) -> Common:
    return Common(**{field.name: getattr(recipe, field.name) for field in fields(Common)})


def begins_with(chain: Chain, step: Step) -> tuple[str, str | None]:
    """The model that the step's own descends from, and the chat template that it has by then."""
    template = None
    while True:
        template = template or step.values.get("chat_template")
        key = "init" if step.method == "cpt" else "model"
        if key not in step.references:
            return str(step.values.get(key, "config")), template
        step = chain[step.references[key]]


def plan_text(parts: Sequence[Part], rows: Mapping[str, Sequence[Row]], heldout: int, out: Path) -> str:
    """The steps in their order, for a terminal."""
    lines = [f"{len(parts)} steps into {out}; {heldout} prompts are held out of all of them"]
    for number, part in enumerate(parts, 1):
        step = part.step
        size = f"{len(rows[step.name]):,} rows" if step.name in rows else part.recipe.train_file
        after = ", ".join(f"{key} of {name}" for key, name in step.references.items())
        begins = "" if "model" in step.references or "init" in step.references else f"from {_begin(step)}"
        words = [f"  {number} {step.name}: {step.method}", size, begins, after, "finished" if part.finished else ""]
        lines.append("; ".join(filter(None, words)))
    return "\n".join(lines)


def _begin(step: Step) -> str:
    return str(step.values.get("model") or step.values.get("init", "config"))
