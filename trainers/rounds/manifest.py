"""OUT/rounds.json: what each finished round was made of and what came of it, and what a run may go on with."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainers.ask.journal import write_whole
from trainers.run.recipe import RecipeError
from trainers.run.record import finite

FREE = ("report_to", "logging_every", "license", "rounds", "engine_concurrency", "engine_timeout", "engine_key_env",
        "judge_key_env", "threads")  # fmt: skip


def begin(out: Path, wanted: Mapping[str, Any], resume: bool) -> None:
    """Keep what the rounds are made of, and refuse to go on with anything else; without `resume` begin anew.

    Raises:
        RecipeError: the folder's rounds have other values; the message names their keys.
    """
    path = out / "recipe.json"
    values = json.loads(json.dumps(wanted))
    if not resume:
        for folder in (*out.glob("round-*"), *out.glob("heldout-*"), out / "final"):
            shutil.rmtree(folder, ignore_errors=True)
        (out / "rounds.json").unlink(missing_ok=True)
    elif path.is_file() and any(out.glob("round-*")):
        before = json.loads(path.read_text(encoding="utf-8"))
        keys = sorted(before.keys() | values.keys())
        if changed := [key for key in keys if before.get(key) != values.get(key) and key not in FREE]:
            raise RecipeError(
                f"{out} holds rounds with other values of {', '.join(changed)}; use --no-resume or another --out"
            )
    try:
        write_whole(path, json.dumps(values, indent=2) + "\n")
    except OSError as error:
        raise RecipeError(f"--out {out} cannot be written: {error.strerror}") from error


def read(out: Path) -> list[dict[str, Any]]:
    """The finished rounds, in their order."""
    path = out / "rounds.json"
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else []


def finish(out: Path, number: int, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Add a round; it counts from the moment that this returns. All rounds so far."""
    rounds = [*read(out)[:number], dict(found)]
    write_whole(out / "rounds.json", json.dumps(finite(rounds), indent=2, allow_nan=False) + "\n")
    return rounds


def revision_of(folder: Path) -> str:
    """A name for an actor's weights: the hash of its weight files."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
