"""Answers from a running vLLM, which is given each step's LoRA adapter before it is asked."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainers.ask.engine import EngineError
from trainers.ppo.collect import Ask
from trainers.ppo.ppo_recipe import Recipe
from trainers.ppo.world import World
from trainers.rounds.engine_process import load_adapter, unload_adapter
from trainers.rounds.remote import Remote
from trainers.rounds.sample import Sample


class EngineSpeaker:
    """Saves the adapter in OUT/engine and has the engine load it under a name of its own for each step."""

    def __init__(self, recipe: Recipe, model: Any, out: Path, world: World) -> None:
        self.recipe, self.model, self.out, self.world = recipe, model, out, world
        self.together = recipe.batch
        self._remote = Remote(recipe.engine, "")
        self._step: int | None = None
        # vLLM refuses a name twice, and a resumed run's adapters may be there; all processes must use one name.
        self._start = world.agreed(secrets.token_hex(3))

    def renew(self, step: int) -> None:
        """Raises EngineError where the engine does not take the adapter."""
        if step == self._step:
            return
        name = f"{self.out.name}-step-{step}-{self._start}"
        folder = self.out / "engine" / name
        if self.world.rank == 0:
            shutil.rmtree(folder.parent, ignore_errors=True)
            self.model.save_pretrained(folder)
            load_adapter(self.recipe.engine_url, name, folder)
            if self._step is not None:
                unload_adapter(self.recipe.engine_url, self._remote.engine.model)
        self.world.wait()
        self._remote = Remote(replace(self.recipe.engine, model=name), name, details=True)
        self._step = step

    def answers(self, asks: Sequence[Ask], number: int, seed: int, folder: Path) -> list[list[Sample]]:
        """Kept in FOLDER/answers.jsonl.

        Raises:
            EngineError: the engine cannot be asked, or gives no token ids and log-probabilities.
        """
        found = self._remote.sample([ask.prompt for ask in asks], number, seed, folder)
        for sample in (sample for group in found for sample in group):
            if sample.finish != "refused" and not 0 < len(sample.token_ids) == len(sample.logprobs):
                raise EngineError(f"engine {self.recipe.engine_url} gives no token ids with log-probabilities, which "
                                  "PPO learns from; vLLM does")  # fmt: skip
        return found
