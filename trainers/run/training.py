"""What every method on TRL shares: the trainer's arguments, the run, the command.

A method's Recipe adds keys to `Common`; its `train` is: `begin` (read, split, tokenize,
check), its own TRL trainer, `go`.
"""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from trainers.data.jsonl import DataError
from trainers.run.adapter import lora, quantization
from trainers.run.best import best_of, keep_best
from trainers.run.checkpoint import is_disk_full, last_checkpoint
from trainers.run.finite import FiniteSteps, NonFinite
from trainers.run.keys import Common, accumulation, validate
from trainers.run.model import is_first, load
from trainers.run.outcome_text import epilogue
from trainers.run.recipe import RecipeError, read_recipe
from trainers.run.record import finite, write_json
from trainers.run.sets import Material, begin

__all__ = ["Common", "Material", "arguments", "begin", "go", "load", "lora", "main_for", "ours", "validate"]

C = TypeVar("C", bound=Common)


def ours(kind: type) -> type:
    """The TRL trainer, taking token ids; it stops at a non-finite step, sends no telemetry and writes no card."""
    keep = {
        "_prepare_dataset": lambda self, dataset, *rest, **more: dataset,
        "_send_telemetry": lambda self: None,
        "create_model_card": lambda self, *rest, **more: None,
    }
    return type(kind.__name__, (FiniteSteps, kind), keep)


def arguments(recipe: Common, out: Path, config_class: Any, **method_fields: Any) -> Any:
    """The TRL config (SFTConfig, DPOConfig, …) that the recipe's common keys ask for."""
    import torch

    cuda = torch.cuda.is_available()
    new, old = "activation_checkpointing", "gradient_checkpointing"  # the name changed in transformers 5
    bf16 = cuda and torch.cuda.is_bf16_supported() if recipe.bf16 == "auto" else recipe.bf16
    dtype = "bfloat16" if bf16 and recipe.lora_rank else "float32"  # full weights learn in float32
    values = {
        "output_dir": str(out),
        "num_train_epochs": recipe.epochs,
        "max_steps": recipe.steps or -1,
        "per_device_train_batch_size": recipe.micro_batch,
        "per_device_eval_batch_size": recipe.micro_batch,
        "gradient_accumulation_steps": accumulation(recipe),
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.schedule,
        "warmup_steps": recipe.warmup,
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "use_cpu": not cuda,
        "bf16": bf16,
        new if hasattr(config_class, new) else old: recipe.gradient_checkpointing,
        "save_steps": recipe.save_every,
        "save_total_limit": 2,
        "eval_strategy": "no",
        "eval_steps": recipe.eval_every,
        "logging_steps": recipe.logging_every,
        "logging_nan_inf_filter": False,
        "dataloader_pin_memory": cuda,
        "report_to": ["wandb"] if "wandb" in recipe.report_to else "none",
        "model_init_kwargs": {"dtype": dtype, **quantization(recipe)},
        "max_length": recipe.max_length,
    }
    return config_class(**values | method_fields)


def go(
    trainer: Any,
    recipe: Common,
    method: str,
    out: Path,
    material: Material,
    resume: bool = True,
    *,
    facts: Mapping[str, Any] | None = None,
    also: Callable[[dict[str, float]], dict[str, Any]] = lambda found: {},
) -> dict[str, Any]:
    """Train to the end, from the last whole checkpoint if there is one; save `final`; return what run.json holds.

    Args:
        material: what the trainer was made from.
        facts: more for run.json.
        also: what follows from the held-out numbers, which are taken before the first step and after the last.

    Raises:
        NonFinite: a step's loss or gradient is not finite. RecipeError: `best` names no held-out measure.
    """
    import torch
    from transformers.trainer_utils import IntervalStrategy

    from trainers.run.callbacks import Clock, LabelledProgress, board
    from trainers.run.record import record_run, save_trained

    def test() -> dict[str, Any]:
        found = tested(trainer.evaluate()) if trainer.eval_dataset is not None else {}
        return found | also(found) if found else {}

    torch.use_deterministic_algorithms(True, warn_only=True)
    trainer.learned_from = material.train
    progress = LabelledProgress.instead(trainer)
    with trainer.args.main_process_first():
        checkpoint = last_checkpoint(out, resume)
    trainer.add_callback(Clock())
    if "tensorboard" in recipe.report_to:
        trainer.add_callback(board(out))
    before = baseline(trainer, test, out, fresh=checkpoint is None)
    if trainer.eval_dataset is not None:
        trainer.args.eval_strategy = IntervalStrategy.STEPS
    keep_best(trainer, recipe, before)
    progress.label = "training"
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    finally:
        close_bars(trainer)  # or a message about the end would stand behind one
    progress.label = "held out, after training"
    after = test()
    save_trained(trainer, recipe, out / "final")
    found = {"heldout_before": before, "heldout": after, **best_of(trainer)}
    return record_run(trainer, recipe, method, out, {**material.facts, **(facts or {}), **found})


def close_bars(trainer: Any) -> None:
    for callback in trainer.callback_handler.callbacks:
        for name in ("prediction_bar", "training_bar"):
            if (bar := getattr(callback, name, None)) is not None:
                bar.close()


def tested(metrics: dict[str, float]) -> dict[str, float]:
    """What was measured, without how long that took."""
    clock = ("_runtime", "_per_second", "_time", "epoch", "num_tokens")
    return {key.removeprefix("eval_"): value for key, value in metrics.items() if not key.endswith(clock)}


def baseline(trainer: Any, test: Callable[[], dict[str, Any]], out: Path, fresh: bool) -> dict[str, Any]:
    """The held-out numbers before the first step; a resumed run reads those that it measured when it was fresh."""
    path = out / "baseline.json"
    if fresh and not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):  # these wrap the model in train()
        measured = test()
        # Evaluation marks the model as prepared, and a prepared model is not wrapped for several processes any more:
        # each would learn alone.
        trainer.model._is_accelerate_prepared = False
        trainer.accelerator.free_memory()
        if trainer.is_world_process_zero():
            write_json(path, measured)
        return measured
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def main_for(
    method: str, kind: type[C], train: Callable[[C, Path, bool], dict[str, Any]], argv: Sequence[str] | None = None
) -> int:
    """The command line that all methods share, and its exit status.

    0: trained; 2: the recipe or the data is wrong; 1: the disk is full, or a loss is not finite; 130: interrupted.
    """
    about = (sys.modules[train.__module__].__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog=f"trimtab train {method}", description=about)
    parser.add_argument("--config", type=Path, required=True, help="a recipe: a file, or a shipped one's name")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model, the checkpoints and the logs")
    parser.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True, help="go on where OUT stopped")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of the recipe, changed")
    parser.add_argument(
        "--launch", metavar="NAME", help="several processes, GPUs or machines: see trainers/run/launch.py"
    )
    options = parser.parse_args(argv)

    def trained() -> dict[str, Any]:
        return train(read_recipe(options.config, kind, options.set), options.out, options.resume)

    run = attempted(method, options.out, trained)
    if isinstance(run, int):
        return run
    if is_first():
        print(epilogue(run, options.out), file=sys.stderr)
        print(json.dumps(finite(run["heldout"]) | {"model": str(options.out / "final")}, indent=2))
    return 0


def attempted(method: str, out: Path, trained: Callable[[], dict[str, Any]]) -> dict[str, Any] | int:
    """What `trained` returns, or, after a message, the exit status of `main_for` where it fails."""
    warnings.filterwarnings("ignore", ".*gradient_checkpointing.*", FutureWarning)  # TRL still asks by the old name
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or CUDA's matrix products differ from run to run
    try:
        return trained()
    except (RecipeError, DataError) as error:
        print(f"train {method}: {error}", file=sys.stderr)
        return 2
    except NonFinite as error:
        print(f"train {method}: stopped before a weight changed: {error}", file=sys.stderr)
        print("a lower learning_rate may help, or other rows; earlier checkpoints are sound", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            f"train {method}: interrupted; the same command resumes from the last checkpoint",
            file=sys.stderr,
        )
        return 130
    except Exception as error:  # torch, safetensors and tensorboard each have their own error for a full disk
        if not is_disk_full(error, out):
            raise
        print(
            f"train {method}: no space left for {out}; free some and run the same command again",
            file=sys.stderr,
        )
        return 1
