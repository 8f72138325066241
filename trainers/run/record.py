"""What a finished run leaves behind: the model, `run.json` and the learning curve."""

import json
import math
import os
import platform
import re
import shutil
import subprocess
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainers.run.keys import Common


def save_trained(trainer: Any, recipe: "Common", folder: Path) -> None:
    """The model, or the adapter alone where there is one, and the tokenizer with its chat template.

    All processes call this: sharded weights are gathered. The folder appears whole or not at all.
    """
    import torch

    tokenizer = trainer.processing_class
    plain = not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)
    if plain and not recipe.lora_rank:
        trainer.model.to(getattr(torch, recipe.final_dtype))
    trainer.model.config.use_cache = True
    if trainer.model.can_generate():
        set_ends(trainer.model.generation_config, tokenizer)
    with trainer.args.main_process_first(local=False):  # only the first clears away what an earlier run left
        draft = draft_of(folder) if trainer.is_world_process_zero() else part_of(folder)
    trainer.save_model(str(draft))
    if trainer.is_world_process_zero():
        (draft / "training_args.bin").unlink(missing_ok=True)  # a pickle, and nothing that serving needs
        settle(draft, recipe, tokenizer, folder)


def settle(draft: Path, recipe: "Common", tokenizer: Any, folder: Path) -> None:
    """Name an adapter's base as the recipe does, not by where it lies on this machine, and finish the folder."""
    adapter = draft / "adapter_config.json"
    if adapter.is_file():
        values = json.loads(adapter.read_text(encoding="utf-8"))
        values["base_model_name_or_path"] = recipe.model
        adapter.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    put(draft, tokenizer, folder)


def set_ends(generation: Any, tokenizer: Any) -> None:
    """The tokenizer's special tokens for generation; further end tokens of the base's stay (Gemma, Phi, Llama 3).

    Without them the model, asked by the template that it was trained on, would run on past its turn.
    """
    had = generation.eos_token_id
    others = had if isinstance(had, list) else [] if had is None else [had]
    ends = list(dict.fromkeys([tokenizer.eos_token_id, *others]))
    generation.eos_token_id = ends if len(ends) > 1 else ends[0]
    generation.bos_token_id, generation.pad_token_id = tokenizer.bos_token_id, tokenizer.pad_token_id


def draft_of(folder: Path) -> Path:
    """Where a folder is written before it takes its name; what is there is cleared away."""
    draft = part_of(folder)
    shutil.rmtree(draft, ignore_errors=True)
    return draft


def part_of(folder: Path) -> Path:
    """The folder's name while it is being written."""
    return folder.with_name(folder.name + ".part")


def put(draft: Path, tokenizer: Any, folder: Path) -> None:
    """Add the tokenizer to the draft and give the draft its name."""
    tokenizer.save_pretrained(draft)
    tidy(draft / "tokenizer_config.json")
    (draft / "README.md").unlink(missing_ok=True)  # peft's card, empty; ours is made on export
    for path in draft.iterdir():
        path.chmod(0o644)  # safetensors writes files that only their owner can read
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(draft, folder)


def tidy(config: Path) -> None:
    """Take out how the tokenizer was loaded here, and name its class as transformers 4 knows it."""
    values = json.loads(config.read_text(encoding="utf-8"))
    for key in ("is_local", "local_files_only"):
        values.pop(key, None)
    if values.get("tokenizer_class") == "TokenizersBackend":
        values["tokenizer_class"] = "PreTrainedTokenizerFast"
    config.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def record_run(trainer: Any, recipe: "Common", method: str, out: Path, extra: dict[str, Any]) -> dict[str, Any]:
    """Write run.json and curve.png of a TRL trainer's run; `extra`: data hashes, held-out numbers and whatever else."""
    history = trainer.state.log_history
    sizes = [(p.numel(), p.requires_grad) for p in trainer.model.parameters()]
    run = {
        "method": method,
        "recipe": asdict(recipe),
        **extra,
        "parameters": sum(number for number, _ in sizes),
        "trained_parameters": sum(number for number, trained in sizes if trained),
        "steps": trainer.state.global_step,
        "seconds": max((entry["seconds"] for entry in history if "seconds" in entry), default=0.0),
        "processes": trainer.args.world_size,
        "device": str(trainer.args.device),
        **surroundings("torch", "transformers", "tokenizers", "accelerate", "trl", "peft", "datasets"),
    }
    if trainer.is_world_process_zero():
        write_json(out / "run.json", run)
        draw_curve(history, out / "curve.png")
    return run


def write_json(path: Path, value: Any) -> None:
    """Write JSON that every parser reads: null stands for NaN and infinities, for which JSON has no word."""
    path.write_text(json.dumps(finite(value), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def finite(value: Any) -> Any:
    """The value with None for every float in it that is not finite."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def surroundings(*packages: str) -> dict[str, Any]:
    """What the run's numbers may depend on beside the recipe and the data."""
    return {
        "versions": {name: version(name) for name in packages},
        "python": platform.python_version(),
        "commit": commit(),
    }


def commit() -> str | None:
    """The commit of the code that runs; None where it is not a checkout."""
    folder = Path(__file__).parent
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


PANELS = (
    "rewards/margins", "rewards/accuracies", "rewards/chosen", "rewards/rejected", "accuracy", "margin", "score", "kl",
    "entropy", "clip_share", "value_loss", "explained_variance", "tokens",
)  # fmt: skip


def draw_curve(history: list[dict[str, float]], path: Path, unit: str = "loss") -> None:
    """Training and held-out loss over the steps, and a panel for each of PANELS that the log has."""
    from matplotlib.figure import Figure

    present = {key for entry in history for key in entry}
    losses = sorted(key for key in present if key in ("loss", "eval_loss") or re.fullmatch("eval_.*_loss", key))
    panels = [(unit, losses)]
    panels += [(name, [key for key in (name, f"eval_{name}") if key in present]) for name in PANELS if name in present]
    high = 5 if len(panels) == 1 else 1 + 2 * len(panels)  # inches
    figure = Figure(figsize=(8, high))
    figure.subplots_adjust(left=0.12, right=0.98, bottom=0.5 / high, top=1 - 0.2 / high)
    for axes, (title, keys) in zip(figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0], panels, strict=True):
        for key in keys:
            points = [(entry["step"], entry[key]) for entry in history if key in entry]
            source = key.removeprefix("eval_").removesuffix("_loss")
            held = "held out" if source in ("loss", title) else f"held out: {source}"
            axes.plot(*zip(*points, strict=True), label=held if key.startswith("eval_") else "training", linewidth=1)
        axes.set_ylabel(title)
        if keys:
            axes.legend()
    axes.set_xlabel("step")
    figure.savefig(path, dpi=120)
