"""The held-out prompts: mean score, divergence from the reference and length of the policy's answers to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from trainers.ask.journal import write_rows
from trainers.ppo.collect import Ask, Collector
from trainers.ppo.networks import Actor
from trainers.ppo.rollout import minibatches, rollout_of

SEED = 7_919  # of the held-out answers, the same before and after


def measured(collector: Collector, actor: Actor, asks: Sequence[Ask], folder: Path) -> dict[str, Any]:
    """One answer to each prompt, kept in FOLDER.jsonl. The prompt is the unit of the error."""
    recipe, world = collector.recipe, collector.world
    size = math.ceil(len(asks) / recipe.micro_batch / world.number) * recipe.micro_batch
    first = world.rank * size
    mine = list(asks[first : first + size])
    rows: list[dict[str, Any]] = []
    if mine:
        samples, scores = collector.answered(mine, first, 1, SEED, folder)
    # Pieces are whole only while every process runs a pass, so one with fewer prompts answers some for nothing.
    lacking = size // recipe.micro_batch - math.ceil(len(mine) / recipe.micro_batch) if world.cut else 0
    spare = [collector.speaker.answers(asks[:1], 1, SEED, folder)[0][0].token_ids for _ in range(lacking)]
    if mine:
        kls = divergence(collector, actor, mine, [group[0].token_ids for group in samples])
        rows = [
            {"prompt": ask.prompt, "answer": group[0].text, "finish": group[0].finish, "score": score[0], "kl": kl,
             "tokens": len(group[0].token_ids)}
            for ask, group, score, kl in zip(mine, samples, scores, kls, strict=True)
        ]  # fmt: skip
    for ids in spare:
        divergence(collector, actor, asks[:1], [ids])
    write_rows(folder.with_name(f"{folder.name}{f'-{world.rank}' if world.rank else ''}.jsonl"), rows)
    known = [row["score"] for row in rows if row["score"] is not None]
    sums = world.sums({
        "prompts": len(known), "score": sum(known), "squares": sum(value**2 for value in known), "answers": len(rows),
        "kl": sum(row["kl"] for row in rows), "tokens": sum(row["tokens"] for row in rows),
        "truncated": sum(row["finish"] == "length" for row in rows),
    })  # fmt: skip
    return summary(sums)


def summary(sums: dict[str, float]) -> dict[str, Any]:
    """Means, and the standard error of the score, from sums over all prompts."""
    number, answers = int(sums["prompts"]), max(sums["answers"], 1)
    mean = sums["score"] / number if number else None
    error = None
    if number > 1 and mean is not None:
        error = math.sqrt(max(0.0, sums["squares"] - number * mean**2) / (number - 1) / number)
    per_answer = {name: sums[name] / answers for name in ("kl", "tokens", "truncated")}
    return {"score": mean, "score_standard_error": error, "prompts": number, **per_answer}


@torch.no_grad()
def divergence(
    collector: Collector, actor: Actor, asks: Sequence[Ask], answers: Sequence[Sequence[int]]
) -> list[float]:
    """Σ_t log π − log π_ref of each answer, in nats."""
    recipe, device = collector.recipe, collector.world.device
    number = len(answers)
    rollout = rollout_of([ask.ids for ask in asks], answers, [0.0] * number, [False] * number, collector.pad,
                         recipe.max_new_tokens).to(device)  # fmt: skip
    found: list[float] = []
    for rows in minibatches(torch.arange(number), recipe.micro_batch):
        batch = rollout.batch(rows)
        with collector.world.autocast():
            apart = actor(batch).logps(batch) - actor.reference(batch).logps(batch)
        found += apart.sum(1).tolist()
    return found
