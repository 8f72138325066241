"""OUT/chain.json: what each step is made from, so that no step goes on with what another was made of."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from trainers.ask.journal import write_whole
from trainers.chain.chain_data import hashes
from trainers.chain.chain_plan import Part
from trainers.run.checkpoint import is_disk_full
from trainers.run.recipe import RecipeError
from trainers.run.sets import FREE

Ledger = dict[str, dict[str, Any]]


def made_from(parts: Sequence[Part]) -> Ledger:
    """By step: its recipe, the hashes of its data, and a fingerprint of each step that it builds on."""
    ledger: Ledger = {}
    for part in parts:
        values = {key: value for key, value in asdict(part.recipe).items() if key not in FREE}
        earlier = {f"step {name}": fingerprint(ledger[name]) for name in part.step.references.values()}
        ledger[part.step.name] = json.loads(json.dumps({**values, **hashes(part.recipe), **earlier}))
    return ledger


def fingerprint(values: dict[str, Any]) -> str:
    """A short name for what a step is made from."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def begin(parts: Sequence[Part], out: Path, anew: Sequence[str]) -> Ledger:
    """Keep what the steps are made from, and each step's recipe as OUT/recipes/STEP.yaml.

    `anew`: steps whose folders are removed first.

    Raises:
        RecipeError: a step's folder holds a run that was made from something else.
    """
    for name in anew:
        shutil.rmtree(out / name, ignore_errors=True)
    path = out / "chain.json"
    before: Ledger = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    ledger = made_from(parts)
    for part in parts:
        name = part.step.name
        old, new = before.get(name), ledger[name]
        if part.folder.is_dir() and old is not None and old != new:
            keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
            raise RecipeError(
                f"{part.folder} was made with other values of {', '.join(keys)}; --again {name} makes it and the steps "
                "after it anew, another --out keeps it"
            )
    try:
        write_whole(path, json.dumps(ledger, indent=2) + "\n")
        for part in parts:
            text = yaml.safe_dump(_plain(asdict(part.recipe)), sort_keys=False, allow_unicode=True)
            write_whole(out / "recipes" / f"{part.step.name}.yaml", text)
    except OSError as error:
        if is_disk_full(error, out):
            raise
        raise RecipeError(f"--out {out} cannot be written: {error.strerror}") from error
    return ledger


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain
