"""PPO with a critic, and RLOO and GRPO without one: a policy learns from scores of its own answers.

    trimtab train ppo --config trainers/recipes/ppo.yaml --out build/ppo --set train=prompts.jsonl

Schulman et al. 2017 (arXiv:1707.06347), on language models as in Ouyang et al. 2022 (arXiv:2203.02155): each step
samples answers, scores them, and moves the policy by min(u Â, clip(u, 1 ± ε) Â), where a token's reward is −β times its
divergence from the reference and the score stands on the last one. OUT has checkpoints, samples/, final/ and critic/.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainers.ask.engine import EngineError
from trainers.ask.journal import JournalError
from trainers.ppo.ppo_recipe import Recipe, check
from trainers.run.recipe import RecipeError
from trainers.run.sets import begin
from trainers.run.training import main_for

METHOD = "ppo"
__all__ = ["Recipe", "main", "train"]


def train(recipe: Recipe, out: Path, resume: bool = True) -> dict[str, Any]:
    """Run the recipe to its end and return what `run.json` holds."""
    check(recipe)
    material = begin(recipe, "prompt", out, resume)

    from trainers.ppo.ppo_steps import Run

    try:
        return Run(recipe, out, material, resume).whole()
    except (EngineError, JournalError) as error:
        raise RecipeError(str(error)) from error


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status, as `main_for` gives it."""
    return main_for(METHOD, Recipe, train, argv)


if __name__ == "__main__":
    sys.exit(main())
