"""Rounds of training on the model's own answers: sample, score, select, train, and again with what was trained.

    trimtab train rounds --config trainers/recipes/rounds.yaml --out build/rounds
    trimtab train spin --config rounds --out build/spin --set train=answers.jsonl --set scorer=none

    prompts -> samples -> scores -> selected rows -> training -> the next round's actor

Each round has a folder, OUT/round-N: samples.jsonl (or answers.jsonl, of an engine), scores.jsonl, rows.jsonl and
train/. Every sample and score is on disk before it counts, and rounds.json names the finished rounds; the same command
resumes a killed run, and to bit-identical weights where it samples in this process.
"""

from __future__ import annotations

import math
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import stdev
from typing import Any

from trainers.ask.engine import EngineError
from trainers.ask.journal import JournalError, write_rows
from trainers.data.jsonl import DataError
from trainers.data.messages import Row
from trainers.methods.table import METHODS, resolve
from trainers.rounds import manifest
from trainers.rounds.adversary import trained
from trainers.rounds.group import Group, Scored
from trainers.rounds.prompt_set import of_round, read_prompts
from trainers.rounds.round_recipe import Recipe, check
from trainers.rounds.sample import Sample
from trainers.rounds.score import Scorer
from trainers.rounds.sources import Answered, actor_of, answered, scorer_of, template_of
from trainers.run.model import say, use_threads
from trainers.run.parts import derived, once, take_final
from trainers.run.recipe import RecipeError
from trainers.run.training import main_for

METHOD = "rounds"
__all__ = ["Recipe", "main", "train"]


def train(recipe: Recipe, out: Path, resume: bool = True) -> dict[str, Any]:
    """Run all rounds and return what `run.json` holds."""
    check(recipe)
    use_threads(recipe.threads)
    rows, heldout, hashes = read_prompts(recipe)
    manifest.begin(out, {**asdict(recipe), **hashes}, resume)
    try:
        scorer = scorer_of(recipe)
        before = measured(recipe, actor_of(recipe, out, 0), 0, heldout, scorer, out / "heldout-0")
        rounds = manifest.read(out)
        for number in range(len(rounds), recipe.rounds):
            actor = actor_of(recipe, out, number)
            rounds = manifest.finish(out, number, one(recipe, actor, number, rows, scorer, out))
            say(f"round {number + 1} of {recipe.rounds}: {summary(rounds[-1])}")
        end = recipe.rounds
        after = measured(recipe, actor_of(recipe, out, end), end, heldout, scorer, out / f"heldout-{end}")
    except (EngineError, JournalError) as error:
        raise RecipeError(str(error)) from error
    return finish(recipe, rounds[: recipe.rounds], hashes, before, after, out)


# ---------------------------------------------------------------- one round


def one(
    recipe: Recipe, actor: Path, number: int, rows: Sequence[Row], scorer: Scorer | None, out: Path
) -> dict[str, Any]:
    """Sample, score, select and train; what rounds.json says of it."""
    folder = out / f"round-{number}"
    chosen = of_round(recipe, rows, number)
    variants = (recipe.affix_good, recipe.affix_bad) if recipe.row.affixes else ("{prompt}",)
    prompts = [row["prompt"] for row in chosen]
    if recipe.scorer == "adversary":
        plain = answered(recipe, actor, number, prompts, recipe.samples, folder, None)
        scorer = trained(recipe, plain, chosen, number, folder)
    found = answered(recipe, actor, number, prompts, recipe.samples, folder, scorer, variants)
    groups, dropped = grouped(found, chosen)
    draws = [random.Random(f"{recipe.seed}/{number}/{at}") for at in range(len(groups))]  # noqa: S311 (no secret)
    select = resolve(recipe.row.of)
    rows = [row for group, draw in zip(groups, draws, strict=True) for row in select(group, recipe.choice, draw)]
    if not rows:
        raise DataError(f"round {number}: selector {recipe.selector} left nothing to learn ({dict(dropped)})")
    write_rows(folder / "rows.jsonl", rows)
    method = METHODS[recipe.row.trains]
    begins = 0 if recipe.start == "base" else number  # whose actor is trained
    part = derived(
        recipe, method.recipe, model=str(actor_of(recipe, out, 0) if begins == 0 else actor), heldout=None,
        heldout_fraction=0.0, train=str(folder / "rows.jsonl"), chat_template=template_of(recipe, begins),
        seed=recipe.seed + number, **recipe.trained(),
    )  # fmt: skip
    run = once(resolve(f"{method.entry.partition(':')[0]}:train"), part, folder / "train", resume=True)
    values = [score for group in found.scores for score in group if score is not None and recipe.scorer != "none"]
    return {
        "round": number, "actor": manifest.revision_of(actor), "prompts": len(chosen),
        "samples": sum(map(len, found.samples)), "dropped": dict(dropped), "rows": len(rows),
        "score": sum(values) / len(values) if values else None, "steps": run["steps"], "method": recipe.row.trains,
    }  # fmt: skip


def grouped(found: Answered, rows: Sequence[Row]) -> tuple[list[Group], Counter[str]]:
    """The samples that can be learned of, prompt by prompt, and why others cannot.

    A sample that was cut off would teach to end where it was cut.
    """
    dropped: Counter[str] = Counter()
    kept: list[tuple[Scored, ...]] = []
    for some, values in zip(found.samples, found.scores, strict=True):
        usable = []
        for sample, value in zip(some, values, strict=True):
            if (why := flaw(sample, value)) or value is None:
                dropped[why] += 1
            else:
                usable.append(Scored(sample.text, value))
        kept.append(tuple(usable))
    number = len(found.prompts)
    others = kept[number:] or [()] * number
    parts = zip(found.prompts, kept[:number], rows, others, strict=True)
    return [Group(prompt, mine, row.get("completion"), other) for prompt, mine, row, other in parts], dropped


def flaw(sample: Sample, value: float | None) -> str:
    """Why nothing can be learned of a sample; "" where something can."""
    if sample.finish in ("length", "refused"):
        return "cut off" if sample.finish == "length" else "refused"
    return "empty" if not sample.text.strip() else "no score" if value is None else ""


# ---------------------------------------------------------------- the end


def measured(
    recipe: Recipe, actor: Path, number: int, heldout: Sequence[Row], scorer: Scorer | None, folder: Path
) -> dict[str, Any]:
    """The mean score of round `number`'s actor on the held-out prompts, {} where there are none."""
    if not heldout or scorer is None:
        return {}
    prompts = [row["prompt"] for row in heldout]
    found = answered(recipe, actor, number, prompts, recipe.heldout_samples, folder, scorer)
    groups = [[score for score in group if score is not None] for group in found.scores]
    values = [sum(group) / len(group) for group in groups if group]  # the prompt is the unit
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    mean = sum(values) / len(values) if values else None
    return {"score": mean, "score_standard_error": error, "prompts": len(values)}


def summary(found: dict[str, Any]) -> str:
    """A round in a line."""
    score = "" if found["score"] is None else f", mean score {found['score']:.4g}"
    dropped = ", ".join(f"{number} {why}" for why, number in found["dropped"].items())
    return f"{found['samples']} samples{f' ({dropped})' if dropped else ''}{score}, {found['rows']} rows learned"


def finish(
    recipe: Recipe, rounds: list[dict[str, Any]], hashes: dict[str, str], before: dict[str, Any], after: dict[str, Any],
    out: Path,
) -> dict[str, Any]:  # fmt: skip
    """OUT/final and run.json."""
    from trainers.run.record import surroundings, write_json

    last = f"round-{recipe.rounds - 1}/train"
    take_final(out / last, out)
    row = recipe.row
    record = {
        "method": METHOD,
        "recipe": asdict(recipe),
        "selector": {"name": recipe.selector, "paper": row.paper, "formula": row.formula},
        "last": last,
        "data_sha256": hashes,
        "rounds": rounds,
        "heldout_before": before,
        "heldout": after,
        **surroundings("torch", "transformers", "tokenizers", "accelerate", "trl", "peft"),
    }
    write_json(out / "run.json", record)
    return record


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status, as `main_for` gives it."""
    return main_for(METHOD, Recipe, train, argv)


if __name__ == "__main__":
    sys.exit(main())
