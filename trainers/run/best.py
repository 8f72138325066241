"""The best checkpoint by a held-out measure instead of the last, and a stop when it no longer gets better."""

from collections.abc import Mapping
from typing import Any

from trainers.run.keys import Common
from trainers.run.recipe import RecipeError

# Measures of which less is better, by the end of their names.
LOWER = ("loss", "perplexity", "kl", "entropy", "nll/best", "nll/chosen")


def keep_best(trainer: Any, recipe: Common, before: Mapping[str, Any]) -> None:
    """Have the trainer load the checkpoint that is best by `recipe.best` at its end, and stop after `patience`.

    Args:
        before: the held-out numbers before the first step, by which the measure's name is checked; may be empty.

    Raises:
        RecipeError: nothing is held out, or no measure has that name.
    """
    if recipe.best is None:
        return
    if trainer.eval_dataset is None:
        raise RecipeError(f"best: {recipe.best} is measured on held-out rows, and there are none")
    if before and recipe.best not in before:
        raise RecipeError(f"best: no held-out measure {recipe.best!r}; measures: {', '.join(before)}")
    from transformers import EarlyStoppingCallback

    args = trainer.args
    args.load_best_model_at_end = True
    args.metric_for_best_model = f"eval_{recipe.best}"
    args.greater_is_better = not recipe.best.endswith(LOWER)
    args.restore_callback_states_from_checkpoint = True  # a resumed run has lost as much patience as it had
    if recipe.patience:
        trainer.add_callback(EarlyStoppingCallback(recipe.patience))


def best_of(trainer: Any) -> dict[str, Any]:
    """{"best": {measure, value, step}} for run.json; {} where the last weights are kept."""
    state, args = trainer.state, trainer.args
    if not args.load_best_model_at_end or state.best_model_checkpoint is None:
        return {}
    step = int(state.best_model_checkpoint.rpartition("-")[2])
    measure = args.metric_for_best_model.removeprefix("eval_")
    return {"best": {"measure": measure, "value": state.best_metric, "step": step}}
