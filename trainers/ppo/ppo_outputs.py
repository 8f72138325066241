"""What a run leaves behind: final/, the moving average in ema/, the critic, samples and run.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from trainers.ask.journal import write_rows
from trainers.ppo.collect import Collected
from trainers.ppo.networks import Actor, Critic
from trainers.ppo.optimizer import Optimizer
from trainers.ppo.ppo_recipe import Recipe
from trainers.rounds.score import last
from trainers.run.model import say
from trainers.run.record import draft_of, draw_curve, set_ends, settle, surroundings, write_json

SHOWN = 2  # samples on the terminal


def save_networks(
    recipe: Recipe, actor: Actor, critic: Critic | None, policy: Optimizer, tokenizer: Any, out: Path
) -> None:
    """OUT/critic, OUT/ema where there is an average, and last OUT/final; each whole or not at all."""
    if critic is not None:
        model = critic.model.merge_and_unload() if recipe.lora_rank else critic.model
        _save(model, recipe, tokenizer, out / "critic")
    if policy.averages:
        with torch.no_grad():
            trained = {key: value.detach().clone() for key, value in policy.named.items()}
            for key, value in policy.named.items():
                value.copy_(policy.averages[key])
            _save(actor.model, recipe, tokenizer, out / "ema")
            for key, value in policy.named.items():
                value.copy_(trained[key])
    _save(actor.model, recipe, tokenizer, out / "final")


def _save(model: Any, recipe: Recipe, tokenizer: Any, folder: Path) -> None:
    draft = draft_of(folder)
    weights = {}
    if not hasattr(model, "peft_config"):
        dtype = getattr(torch, recipe.final_dtype)
        weights = {"state_dict": {key: value.to(dtype) for key, value in model.state_dict().items()}}
        model.config.dtype = dtype
    model.config.use_cache = True
    if model.can_generate():
        set_ends(model.generation_config, tokenizer)
    model.save_pretrained(draft, **weights)
    settle(draft, recipe, tokenizer, folder)


def show_samples(found: Collected, step: int, out: Path) -> None:
    """OUT/samples/step-N.jsonl, and the first of them on the terminal."""
    rows: list[dict[str, Any]] = [
        {"prompt": ask.prompt, "answer": sample.text, "finish": sample.finish, "score": score}
        for ask, group, scores in zip(found.asks, found.samples, found.scores, strict=True)
        for sample, score in zip(group, scores, strict=True)
    ]
    write_rows(out / "samples" / f"step-{step}.jsonl", rows)
    for row in rows[:SHOWN]:
        score = "no score" if row["score"] is None else f"score {row['score']:.3g}"
        say(f"step {step}, {score}: {last(row['prompt'])!r:.100} → {row['answer']!r:.200}")


def record(
    recipe: Recipe, method: str, out: Path, log: Sequence[Mapping[str, Any]], facts: Mapping[str, Any],
    networks: Sequence[Any], processes: int, device: str,
) -> dict[str, Any]:  # fmt: skip
    """run.json and curve.png; what run.json holds."""
    sizes = [(p.numel(), p.requires_grad) for network in networks for p in network.parameters()]
    run = {
        "method": method, "recipe": asdict(recipe), **facts, "parameters": sum(number for number, _ in sizes),
        "trained_parameters": sum(number for number, trained in sizes if trained), "processes": processes,
        "device": device, **surroundings("torch", "transformers", "tokenizers", "accelerate", "peft"),
    }  # fmt: skip
    write_json(out / "run.json", run)
    if log:
        draw_curve([dict(entry) for entry in log], out / "curve.png")
    return run
