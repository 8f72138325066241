"""A training that is a part of another run: its recipe, its one execution, and its weights for the part after it."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from trainers.data.layouts import data_hash
from trainers.run.keys import Common
from trainers.run.model import is_first, say

C = TypeVar("C", bound=Common)


def derived(recipe: Common, kind: type[C], **changes: Any) -> C:
    """The recipe of a part: this one's common keys, and what the part has of its own."""
    common = {field.name: getattr(recipe, field.name) for field in fields(Common)}
    return kind(**{**common, "unusable": "drop"} | changes)


def once(
    train_part: Callable[[C, Path, bool], dict[str, Any]], recipe: C, folder: Path, resume: bool
) -> dict[str, Any]:
    """What run.json holds: of the folder's finished run, where it has this very recipe and data, or of a new one."""
    path = folder / "run.json"
    if resume and path.is_file():
        before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        same = before["recipe"] == json.loads(json.dumps(asdict(recipe)))
        if same and before["data_sha256"]["the data of train"] == data_hash(recipe.train, []):
            say(f"{folder} is finished")
            return before
    return train_part(recipe, folder, resume)


def whole(run: Path) -> Path:
    """The run's `final` with all its weights, to begin the next part with: an adapter is merged into RUN/merged."""
    from accelerate import PartialState  # type: ignore[import-untyped]

    from trainers.run.weights import is_adapter, save

    final, merged = run / "final", run / "merged"
    if not is_adapter(final):
        return final
    if is_first():
        draft = run / "merged.part"
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(merged, ignore_errors=True)
        save(final, draft, "float32")
        os.replace(draft, merged)
    PartialState().wait_for_everyone()
    return merged


def take_final(part: Path, out: Path) -> None:
    """OUT/final as a copy of the part's `final`, whole or not at all."""
    draft = out / "final.part"
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(part / "final", draft)
    shutil.rmtree(out / "final", ignore_errors=True)
    draft.replace(out / "final")
