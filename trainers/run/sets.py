"""The sets that a method learns from and is measured on: read, split by prompt, checked, and tokenized."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainers.data.jsonl import DataError
from trainers.data.layouts import data_hash, opening, read_rows, split
from trainers.data.messages import Row
from trainers.data.tokens import LossOn, Tokens, cut, encode_rows
from trainers.run.checkpoint import remember
from trainers.run.findings import examine, report, summary
from trainers.run.keys import Common, validate
from trainers.run.model import Base, is_first, load, say, use_threads

FREE = ("report_to", "logging_every", "license")  # may change between a run's parts: none moves a weight


@dataclass(frozen=True)
class Material:
    """All that a trainer is made from. `facts` go into run.json."""

    base: Base
    train: list[Tokens]
    heldout: list[Tokens]
    facts: dict[str, Any]


def begin(recipe: Common, kind: str, out: Path, resume: bool, loss_on: LossOn = "completion") -> Material:
    """Read, split, tokenize and check the data; refuse to go on with a run begun on something else."""
    use_threads(recipe.threads)
    validate(recipe)
    base = load(recipe)
    rows, heldout, hashes = read_sets(recipe, kind)
    encoded = encode_rows(rows, base.tokenizer, loss_on)
    tested = encode_rows(heldout, base.tokenizer, loss_on)
    examined = examine(rows, heldout, [*encoded, *tested], base, recipe)
    if is_first():
        report(examined, base.tokenizer)
    if examined.errors:
        raise DataError(f"{recipe.train}: {summary(examined.errors)}")
    if is_first():
        remember({**asdict(recipe), **hashes}, out, resume, FREE)
    train, test = (fitting(each, examined.unusable, recipe) for each in (encoded, tested))
    facts = {
        "data_sha256": hashes,
        "rows": {"train": len(train), "heldout": len(test), "dropped": len(examined.unusable)},
        "layout": base.layout,
        "notes": [*base.notes, *(finding.message for finding in examined.findings)],
    }
    return Material(base, train, test, facts)


def read_sets(recipe: Common, kind: str) -> tuple[list[Row], list[Row], dict[str, str]]:
    """Rows to learn from, rows held out, and the hashes of what they were read from."""
    rows = read_rows(recipe.train, kind)
    hashes = {"the data of train": data_hash(recipe.train, rows)}
    if recipe.heldout is None:
        return *split(rows, recipe.heldout_fraction, recipe.seed), hashes
    heldout = read_rows(recipe.heldout, kind)
    hashes["the data of heldout"] = data_hash(recipe.heldout, heldout)
    seen = {opening(row) for row in heldout}
    kept = [row for row in rows if opening(row) not in seen]
    if len(kept) < len(rows):
        say(f"{len(rows) - len(kept)} training rows share a prompt with the held-out data and are dropped")
    return kept, heldout, hashes


def fitting(encoded: list[Tokens], unusable: set[str], recipe: Common) -> list[Tokens]:
    """The rows that something can be learnt from, the ends of answers cut off at max_length."""
    return [cut(row, recipe.max_length) for row in encoded if row.place not in unusable]
