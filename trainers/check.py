"""`trimtab train check`: what is wrong with training data, without training.

    trimtab train check --config RECIPE.yaml --kind KIND          (or: --data FILE --kind KIND --model MODEL)

Every training makes the same checks first. Errors stop it; warnings are printed and kept in run.json. Three samples are
shown with the tokens that the loss counts in colour, so that a wrong mask is visible. `--json` prints the findings for
a program.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import get_args

from trainers.data.jsonl import DataError
from trainers.data.layouts import Kind
from trainers.data.rows import rows_of
from trainers.data.tokens import encode_rows
from trainers.methods.table import METHODS
from trainers.run.findings import Finding, examine, report
from trainers.run.keys import Common
from trainers.run.model import load
from trainers.run.recipe import RecipeError, fill, override, read_recipe, read_values
from trainers.run.sets import read_sets

KINDS = tuple(kind for kind in get_args(Kind) if kind != "text")  # plain text has no turns to check


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 if the data is ready to train on, 2 for an error in it or a wrong recipe."""
    parser = argparse.ArgumentParser(prog="trimtab train check", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", type=Path, help="a method's recipe")
    parser.add_argument("--data", help="file, folder or hub name, in the recipe's place")
    parser.add_argument("--model", help="the model, in the recipe's place")
    parser.add_argument("--kind", choices=KINDS, help="what the rows are; else told from the columns")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of the recipe, changed")
    parser.add_argument("--json", action="store_true", help="findings as JSON on stdout")
    options = parser.parse_args(argv)
    try:
        if not options.config and not (options.data and options.model):
            raise RecipeError("--config RECIPE, or --data FILE and --model MODEL")
        given = [f"{key}={value}" for key, value in (("train", options.data), ("model", options.model)) if value]
        recipe, kind = recipe_of(options.config, [*given, *options.set], options.kind)
        base = load(recipe)
        rows, heldout, _ = read_sets(recipe, kind)
        encoded = encode_rows([*rows, *heldout], base.tokenizer, getattr(recipe, "loss_on", "completion"))
        examined = examine(rows, heldout, encoded, base, recipe)
    except (RecipeError, DataError) as error:
        if options.json:
            print(json.dumps({"kind": None, "counts": {}, "findings": [asdict(Finding("error", "read", str(error)))]}))
        print(f"train check: {error}", file=sys.stderr)
        return 2
    report(examined, base.tokenizer)
    if options.json:
        findings = [asdict(finding) for finding in examined.findings]
        print(json.dumps({"kind": kind, "layout": examined.layout, "counts": examined.counts, "findings": findings}))
    number = len(examined.errors)
    print(f"train check: {f'{number} error(s)' if number else 'ready to train'}", file=sys.stderr)
    return 2 if number else 0


def recipe_of(config: Path | None, changes: list[str], kind: str | None) -> tuple[Common, str]:
    """The recipe, read as that method's whose keys it has, and the kind of its rows.

    Where several methods fit equally well, the data's columns decide.
    """
    values = read_values(config) | dict(map(override, changes)) if config else dict(map(override, changes))
    if kind is None:
        _, row = next(iter(rows_of(str(values.get("train", "")))), ("", {}))
        pairs = {"chosen", "rejected"} <= row.keys()
        kinds = sorted(KINDS, key=("preference" if pairs else "labelled" if "label" in row else "completion").__ne__)
    else:
        kinds = [kind]
    methods = [method for each in kinds for method in METHODS.values() if method.reads == each]
    recipes = [(method.recipe, method.reads) for method in methods]
    recipe_class, kind = min(recipes, key=lambda each: len(values.keys() - {field.name for field in fields(each[0])}))
    return (read_recipe(config, recipe_class, changes) if config else fill(recipe_class, values)), kind


if __name__ == "__main__":
    sys.exit(main())
