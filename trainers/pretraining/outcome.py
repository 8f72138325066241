"""What a pretraining run leaves behind: the model, `run.json` and the learning curve."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainers.pretraining.loop import Loop
from trainers.pretraining.settings import Recipe
from trainers.run.record import draft_of, draw_curve, put, set_ends, surroundings, write_json


def save_final(model: Any, tokenizer: Any, folder: Path) -> None:
    """Weights in bfloat16 as safetensors, and the tokenizer; the folder appears whole or not at all."""
    import torch
    from transformers import GenerationConfig

    model.config.use_cache = True
    ends = model.generation_config.eos_token_id  # of the base; its way of sampling is for a server to say
    model.generation_config = GenerationConfig(eos_token_id=ends)  # type: ignore[no-untyped-call]
    set_ends(model.generation_config, tokenizer)
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
    write_json(out / "run.json", run)
    draw_curve(history, out / "curve.png", "loss, nats per token")
    return run
