"""What a pretraining run leaves behind: the model, `run.json` and the learning curve."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainers.pretraining.loop import Loop
from trainers.pretraining.settings import Recipe
from trainers.run.record import draft_of, draw_curve, put, surroundings


def save_final(model: Any, tokenizer: Any, folder: Path) -> None:
    """Weights in bfloat16 as safetensors, and the tokenizer; the folder appears whole or not at all."""
    import torch
    from transformers import GenerationConfig

    model.config.use_cache = True
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    draft = draft_of(folder)
    model.to(torch.bfloat16).save_pretrained(draft)
    put(draft, tokenizer, folder)


def record(recipe: Recipe, init: str, loop: Loop, out: Path) -> dict[str, Any]:
    """Measure the saved (bfloat16) weights on all held-out text, and write run.json and curve.png."""
    history = loop.trainer.state.log_history
    lengths = sorted({recipe.block, recipe.long_block})
    losses = {length: loop.heldout_losses(length) for length in lengths}
    run = {
        "method": "cpt",
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
        **surroundings("torch", "transformers", "tokenizers", "accelerate"),
    }
    (out / "run.json").write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
    draw_curve(history, out / "curve.png", "loss, nats per token")
    return run
