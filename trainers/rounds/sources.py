"""Where a round's actor, samples and scores come from, as the recipe names them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from trainers.ask.engine import Engine
from trainers.data.affix import affixed
from trainers.data.messages import spoken
from trainers.rounds import manifest
from trainers.rounds.round_recipe import Recipe
from trainers.rounds.sample import Prompt, Sample, Sampler
from trainers.rounds.score import MarksScorer, Scorer, Scores
from trainers.run.model import load
from trainers.run.parts import whole


def template_of(recipe: Recipe, number: int) -> str | None:
    """The recipe's chat template; a trained actor brings it along."""
    return recipe.chat_template if number == 0 or recipe.chat_template == "none" else None


def actor_of(recipe: Recipe, out: Path, number: int) -> Path:
    """The folder of a round's actor: the base model, or what the round before it trained, an adapter merged."""
    if number == 0:
        return Path(load(recipe).path)
    return whole(out / f"round-{number - 1}" / "train").resolve()  # an adapter names it, wherever it is read from


@dataclass(frozen=True)
class Answered:
    """Prompts as the actor is asked them, and its samples with their scores, variant by variant of all prompts."""

    prompts: list[Prompt]
    samples: list[list[Sample]]
    scores: Scores


def answered(
    recipe: Recipe, actor: Path, number: int, prompts: Sequence[Prompt], samples: int, folder: Path,
    scorer: Scorer | None, variants: Sequence[str] = ("{prompt}",),
) -> Answered:  # fmt: skip
    """Sample and score. A text is a user's turn where there is a chat template; without scores all are 0."""
    folder.mkdir(parents=True, exist_ok=True)
    base = load(replace(recipe, model=str(actor), chat_template=template_of(recipe, number)))
    plain = [spoken(prompt, "user") if base.tokenizer.chat_template else prompt for prompt in prompts]
    asked = [affixed(prompt, variant) for variant in variants for prompt in plain]
    with sampler_of(recipe, actor, base.tokenizer, number, folder) as sampler:
        found = sampler.sample(asked, samples, recipe.seed * 1000 + number, folder)
        judge = MarksScorer(sampler.ask) if recipe.scorer == "self_marks" else scorer
        scores: Scores = [[0.0] * len(group) for group in found]
        if judge is not None:
            scores = judge.score(asked, found, folder)
    return Answered(plain, found, scores)


@contextmanager
def sampler_of(recipe: Recipe, actor: Path, tokenizer: Any, number: int, folder: Path) -> Iterator[Sampler]:
    """What answers with the actor's weights: this process, an engine started on them, or a running one."""
    revision = manifest.revision_of(actor)
    if recipe.sampler == "here":
        from trainers.rounds.generator import Generator

        yield Generator(
            actor, tokenizer, revision, temperature=recipe.temperature, top_p=recipe.top_p,
            max_new_tokens=recipe.max_new_tokens, batch=recipe.micro_batch,
        )  # fmt: skip
        return
    from trainers.rounds.engine_process import load_adapter, running
    from trainers.rounds.remote import Remote

    more: dict[str, Any] = {"top_p": recipe.top_p, "details": recipe.engine_details}
    if recipe.sampler == "command":
        with running(recipe.engine_command, actor, folder / "engine.log", recipe.engine_timeout) as (url, name):
            yield Remote(recipe.engine(url, name), revision, **more)
        return
    name = recipe.engine_model
    if number:
        name = f"{folder.parent.name}-round-{number}"
        load_adapter(recipe.engine_url, name, folder.parent / f"round-{number - 1}" / "train" / "final")
    yield Remote(recipe.engine(recipe.engine_url, name), revision, **more)


class Scoring(Protocol):
    """The keys of a recipe that name a scorer."""

    @property
    def scorer(self) -> str:
        """Its name."""
        ...

    @property
    def reward_model(self) -> str:
        """The folder of a reward model."""
        ...

    @property
    def rule(self) -> str:
        """FILE.py:FUNCTION."""
        ...

    @property
    def judge(self) -> Engine:
        """The judge, as it is asked."""
        ...

    @property
    def seed(self) -> int:
        """Of the orders in which a judge sees pairs."""
        ...


def scorer_of(recipe: Scoring) -> Scorer | None:
    """What the recipe names; None where no scores are needed, or where each round has its own."""
    from trainers.rounds import score

    if recipe.scorer in ("none", "self_marks", "adversary"):
        return None
    if recipe.scorer == "reward":
        return score.RewardScorer(Path(recipe.reward_model))
    if recipe.scorer == "rule":
        return score.RuleScorer(recipe.rule)
    if recipe.scorer == "judge_marks":
        return score.MarksScorer(score.of_engine(recipe.judge))
    return score.PairsScorer(recipe.judge, recipe.seed)
