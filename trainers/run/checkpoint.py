"""Resuming a run: which checkpoint is whole, what the run was started with, and whether the disk is full."""

import errno
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainers.run.recipe import RecipeError


def last_checkpoint(out: Path, resume: bool = True) -> str | None:
    """The newest whole checkpoint; without `resume` none, and all are removed.

    One that a kill cut short has no readable state (which is written last) and is removed as well.
    """
    found = sorted(out.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for path in found:
        if resume and is_whole(path):
            return str(path)
        shutil.rmtree(path)
    return None


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end: its state, which comes last, can be read."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return True


def remember(wanted: Mapping[str, Any], out: Path, resume: bool, free: tuple[str, ...] = ()) -> None:
    """Keep what a run is made of beside its checkpoints, and refuse to go on with anything else.

    `wanted`: the recipe's values and the data's hashes, by the names that the refusal gives. `free`: keys that may
    change on the way.
    """
    path = out / "recipe.json"
    values = json.loads(json.dumps(wanted))
    if resume and path.is_file() and any(out.glob("checkpoint-*")):
        before = json.loads(path.read_text(encoding="utf-8"))
        keys = sorted(before.keys() | values.keys())
        changed = [key for key in keys if before.get(key) != values.get(key) and key not in free]
        if changed:
            names = ", ".join(changed)
            raise RecipeError(f"{out} was started with other values of {names}; use --no-resume or another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        if is_disk_full(error, out):
            raise
        raise RecipeError(f"--out {out} cannot be written: {error.strerror}") from error


def is_disk_full(error: Exception, out: Path) -> bool:
    """Only some writers pass the system's error on; torch's and numpy's say no more than that they failed to write."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or any(
        words in str(error) for words in ("No space left", "File too large")
    ):
        return True
    unclear = any(words in str(error) for words in ("writ", "inline_container"))
    return unclear and shutil.disk_usage(out).free < 100 * 2**20
