"""Every pair under every arm's whole prompt, as the servers lay it out and an engine scores it."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from tqdm import tqdm

from trainers.ask.host import EngineError, Host, run_all
from trainers.ask.journal import Journal
from trainers.evaluation.arms.arm import Arm, Identity
from trainers.evaluation.arms.sampling import BLOCK
from trainers.evaluation.likelihood.margin import Row, key_of
from trainers.evaluation.likelihood.pair_file import Pair
from trainers.evaluation.likelihood.scorer import Prompt, Refused, Scorer, post
from trainers.evaluation.plan import Plan

Found = tuple[Arm, Identity]


def left_of(found: Sequence[Found], pairs: Sequence[Pair], kept: Journal[Row], seed: int) -> list[tuple[Arm, Pair]]:
    """What is still to be scored: BLOCK pairs, of all kinds, under one arm, then the same under the next."""
    mixed = random.Random(f"order {seed}").sample(list(pairs), len(pairs))  # noqa: S311 (an order, no secret)
    return [
        (arm, pair)
        for start in range(0, len(pairs), BLOCK)
        for arm, _ in found
        for pair in mixed[start : start + BLOCK]
        if kept.get(key_of(arm.name, pair.id)) is None
    ]


def score_all(
    plan: Plan, found: Sequence[Found], engines: Mapping[str, Arm], left: Sequence[tuple[Arm, Pair]],
    kept: Journal[Row],
) -> None:  # fmt: skip
    """Score what is left, each answer on disk before it counts.

    Raises:
        EngineError: a server is away, or cannot score.
    """
    names = {arm.host for arm, _ in found} | {engine.host for engine in engines.values()}
    hosts = {name: Host(name, plan.concurrency, plan.requests_per_minute, plan.retries) for name in names}
    scorers: dict[tuple[str, str], Scorer] = {}
    mine = {
        name: scorers.setdefault((engine.url, engine.model), Scorer(engine, hosts[engine.host]))
        for name, engine in engines.items()
    }
    aligned = {arm.name: bool(identity.digest) for arm, identity in found}
    queue = deque(left)

    async def work(client: httpx.AsyncClient, bar: Any) -> None:
        while queue:
            arm, pair = queue.popleft()
            try:
                prompt = await _prompt(client, hosts[arm.host], arm, pair, aligned[arm.name])
                row = Row(arm.name, pair.id, tuple(await mine[arm.name].score(client, prompt, pair.answers)))
            except Refused as error:
                row = Row(arm.name, pair.id, error=str(error))
            kept.append(row.key, row)
            bar.update()

    async def everything() -> None:
        with tqdm(total=len(left), desc="pairs", unit="") as bar:
            async with httpx.AsyncClient(timeout=plan.timeout) as client, asyncio.TaskGroup() as group:
                for _ in range(plan.concurrency):
                    group.create_task(work(client, bar))

    run_all(everything())


async def _prompt(client: httpx.AsyncClient, host: Host, arm: Arm, pair: Pair, aligned: bool) -> Prompt:
    """What the arm's engine would be sent: laid out by the server itself where the arm is a policy."""
    messages = [{"role": role, "content": text} for role, text in pair.messages]
    if not aligned:
        return messages
    told = await post(client, host, arm, "/v1/explain", arm.body(messages))
    prompt: Prompt | None = told.get("text") or told.get("messages")
    if not prompt:
        raise EngineError(f"{arm.url}/v1/explain shows no prompt")
    return prompt
