"""What a finished run leaves behind: the model, `run.json` and the learning curve."""

import json
import math
import os
import platform
import shutil
import subprocess
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainers.cpt import Recipe
    from trainers.loop import Loop


def save_final(model: Any, tokenizer: Any, folder: Path) -> None:
    """Weights in bfloat16 as safetensors, and the tokenizer; the folder appears whole or not at all."""
    import torch
    from transformers import GenerationConfig

    draft = folder.with_name(folder.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    model.config.use_cache = True
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.to(torch.bfloat16).save_pretrained(draft)
    tokenizer.save_pretrained(draft)
    config = draft / "tokenizer_config.json"  # transformers 4 knows this class only by its old name
    text = config.read_text(encoding="utf-8").replace('"TokenizersBackend"', '"PreTrainedTokenizerFast"')
    config.write_text(text, encoding="utf-8")
    for path in draft.iterdir():
        path.chmod(0o644)  # safetensors writes files that only their owner can read
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(draft, folder)


def record(recipe: "Recipe", init: str, loop: "Loop", out: Path) -> dict[str, Any]:
    """Measure the saved (bfloat16) weights on all held-out text, and write run.json and curve.png."""
    history = loop.trainer.state.log_history
    lengths = sorted({recipe.block, recipe.long_block})
    losses = {length: loop.heldout_losses(length) for length in lengths}
    run = {
        "recipe": asdict(recipe),
        "init": init,
        "data_sha256": loop.hashes,
        "parameters": sum(p.numel() for p in loop.model.parameters()),
        "corpus_tokens": len(loop.blocks.row),
        "tokens_seen": loop.trainer.state.global_step * recipe.batch * recipe.block,
        "seconds": max((entry["seconds"] for entry in history if "seconds" in entry), default=0.0),
        "heldout": {
            str(length): {name: {"loss": loss, "perplexity": math.exp(loss)} for name, loss in by_source.items()}
            for length, by_source in losses.items()
        },
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "accelerate")},
        "python": platform.python_version(),
        "commit": commit(),
    }
    (out / "run.json").write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
    draw_curve(history, out / "curve.png")
    return run


def commit() -> str | None:
    """The commit of the code that runs; None where it is not a checkout."""
    folder = Path(__file__).parent
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def draw_curve(history: list[dict[str, float]], path: Path) -> None:
    """Training loss, and held-out loss per source, over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5))
    axes = figure.subplots()
    names = sorted({key for entry in history for key in entry if key == "loss" or key.endswith("_loss")})
    for name in (name for name in names if name == "loss" or name.startswith("eval_")):
        points = [(entry["step"], entry[name]) for entry in history if name in entry]
        label = "training" if name == "loss" else "held out: " + name.removeprefix("eval_").removesuffix("_loss")
        axes.plot(*zip(*points, strict=True), label=label, linewidth=1)
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats per token")
    axes.legend()
    figure.savefig(path, dpi=120)
