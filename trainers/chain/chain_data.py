"""The data of a chain: prompts that no step learns from, and each step's rows without them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainers.ask.journal import write_rows
from trainers.chain.chain_recipe import Chain, Step
from trainers.data.jsonl import DataError, file_hash
from trainers.data.layouts import Kind, opening, read_rows, split, without_place
from trainers.data.messages import Row
from trainers.methods.table import METHODS
from trainers.run.model import say

APART = 1_000_003  # a step's own split is by a hash of its seed: by the same one it would find nothing left to hold out


def held_out(chain: Chain) -> list[Row]:
    """The prompts that the steps' models are compared on; [] where nothing is compared."""
    given, last = chain.comparison, chain.steps[-1]
    if given.reward is None:
        return []
    if given.heldout is not None:
        return read_rows(given.heldout, "prompt")
    try:
        return split(read_rows(source_of(last), "prompt"), given.heldout_fraction, APART + given.seed)[1]
    except DataError as error:
        raise DataError(f"compare: no prompts of step {last.name} can be held out: {error}") from error


def write_data(chain: Chain, heldout: Sequence[Row], out: Path) -> dict[str, list[Row]]:
    """Each step's rows whose prompts are not held out, also as OUT/data/STEP.jsonl; plain text has no prompts."""
    held = {opening(row) for row in heldout}
    found = {}
    for step in chain.steps:
        if reads(step) == "text":
            continue
        try:
            rows = read_rows(source_of(step), reads(step))
        except DataError as error:
            raise DataError(f"step {step.name}: {error}") from error
        kept = [row for row in rows if opening(row) not in held]
        if not kept:
            raise DataError(f"step {step.name}: every prompt of its data is held out")
        if len(kept) < len(rows):
            say(f"step {step.name}: {len(rows) - len(kept)} of {len(rows)} rows have held-out prompts and are left out")
        write_rows(step.rows(out), map(without_place, kept))
        found[step.name] = kept
    return found


def source_of(step: Step) -> str:
    """Where the step's data is: a file, a folder or a name on the hub."""
    return str(step.values.get("train", ""))


def reads(step: Step) -> Kind:
    """The kind of the step's rows; a selector that learns from the data's own answers reads these too."""
    selector = step.values.get("selector")
    if step.method == "rounds" and selector is not None:
        from trainers.rounds.selectors import SELECTORS

        if selector in SELECTORS and SELECTORS[selector].gold:
            return "completion"
    return METHODS[step.method].reads


def hashes(recipe: Any) -> dict[str, str]:
    """sha256 of every file that the recipe's keys name, by key."""
    names = ("train", "heldout", "train_file", "heldout_file", "ptx_data", "pairs", "hard")
    files = {name: Path(value) for name in names if isinstance(value := getattr(recipe, name, None), str) and value}
    return {f"the data of {name}": file_hash(path) for name, path in files.items() if path.is_file()}


def write_prompts(rows: Sequence[Row], out: Path) -> None:
    """OUT/data/heldout.jsonl."""
    write_rows(out / "data" / "heldout.jsonl", map(without_place, rows))
