"""The steps' models compared: the rewards of their answers to the held-out prompts, prompt by prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from trainers.chain.chain_ledger import Ledger, fingerprint
from trainers.chain.chain_recipe import Chain, Comparison
from trainers.data.messages import Row, spoken
from trainers.run.model import say

Z = 1.96  # of a 95% interval by the normal distribution


@dataclass(frozen=True)
class Difference:
    """A mean difference of paired values with its 95% interval; None where one pair leaves it unknown."""

    mean: float
    low: float | None
    high: float | None
    pairs: int


def difference(before: Sequence[float], after: Sequence[float]) -> Difference:
    """after − before, pair by pair."""
    apart = [b - a for a, b in zip(before, after, strict=True)]
    mean = fmean(apart)
    if len(apart) < 2:
        return Difference(mean, None, None, len(apart))
    half = Z * stdev(apart) / math.sqrt(len(apart))
    return Difference(mean, mean - half, mean + half, len(apart))


def compared(chain: Chain, ledger: Ledger, heldout: Sequence[Row], out: Path) -> dict[str, Any]:
    """What run.json says of the comparison; {} where there is nothing to compare.

    Every answer and score is kept in OUT/compare, by what its step and the reward model were made from.
    """
    given = chain.comparison
    if given.reward is None:
        return {}
    prompts = [row["prompt"] for row in heldout[: given.prompts]]
    models = {step.name: step.model(out) for step in chain.steps if not step.scores}
    averaged = {f"{name}, moving average": model.parent / "ema" for name, model in models.items()}
    models |= {name: folder for name, folder in averaged.items() if folder.is_dir()}
    rewards = {}
    for name, model in models.items():
        say(f"compare: {name} answers {len(prompts)} held-out prompts")
        made = {"model": ledger[name.partition(",")[0]], "reward": ledger[given.reward], "by": asdict(given)}
        folder = out / "compare" / f"{model.parent.name}-{model.name}-{fingerprint(made)}"
        rewards[name] = answered(given, model, chain[given.reward].model(out), prompts, folder)
    first, *_, last = (step.name for step in chain.steps if not step.scores)
    return {
        "reward": given.reward,
        "prompts": len(prompts),
        "first": first,
        "last": last,
        "means": {name: fmean(values) for name, values in rewards.items()},
        "last_minus_first": asdict(difference(rewards[first], rewards[last])),
    }


def answered(given: Comparison, model: Path, judge: Path, prompts: Sequence[Any], folder: Path) -> list[float]:
    """The mean reward of the model's answers to each prompt. Both read the prompts by the reward model's template."""
    from transformers import AutoTokenizer

    from trainers.rounds.generator import Generator
    from trainers.rounds.manifest import revision_of
    from trainers.rounds.score import RewardScorer

    scorer = RewardScorer(judge)
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    tokenizer.chat_template = scorer.tokenizer.chat_template
    asked = [spoken(prompt, "user") if tokenizer.chat_template else prompt for prompt in prompts]
    generator = Generator(
        model, tokenizer, revision_of(model), temperature=given.temperature, top_p=1.0,
        max_new_tokens=given.max_new_tokens, batch=given.batch,
    )  # fmt: skip
    samples = generator.sample(asked, given.samples, given.seed, folder)
    scores = scorer.score(asked, samples, folder)
    return [fmean(score for score in group if score is not None) for group in scores]


def comparison_text(found: dict[str, Any]) -> str:
    """The means by step, and the last step's reward less the first's with its interval."""
    if not found:
        return "compare: no step was compared (compare: reward names no reward model)"
    means = ", ".join(f"{name} {mean:.4g}" for name, mean in found["means"].items())
    gain = found["last_minus_first"]
    interval = "unknown" if gain["low"] is None else f"{gain['low']:+.4g} to {gain['high']:+.4g}"
    return (
        f"mean reward on {found['prompts']} held-out prompts, by the model of step {found['reward']}: {means}\n"
        f"{found['last']} less {found['first']}: {gain['mean']:+.4g} (95% interval {interval}, paired by prompt)"
    )
