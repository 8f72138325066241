"""Continued pretraining as a step: its recipe with the model to begin with, which the command takes as a flag."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainers.methods import cpt
from trainers.pretraining import settings


@dataclass(frozen=True)
class Recipe(settings.Recipe):
    """The keys of a `cpt` recipe; `init`: a model's folder, or "config" for a new model."""

    init: str = "config"

    @property
    def plain(self) -> settings.Recipe:
        """The recipe as `trimtab train cpt` reads it."""
        values = asdict(self)
        del values["init"]
        return settings.Recipe(**values)


def check(recipe: Recipe) -> None:
    """Refuse what could only fail later."""
    cpt.check(recipe.plain, recipe.init)


def train(recipe: Recipe, out: Path, resume: bool = True) -> dict[str, Any]:
    """Run the recipe to its end and return what `run.json` holds."""
    return cpt.resumed(recipe.plain, recipe.init, out, resume)
