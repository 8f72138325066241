"""A step's answers and their scores: prompts are answered in chunks, each with a seed of its own, and then scored.

A chunk's answers do not depend on the process that samples it, so any number of processes learns from the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from trainers.ppo.phases import Phases
from trainers.ppo.ppo_recipe import Recipe
from trainers.ppo.rollout import Rollout, rollout_of
from trainers.ppo.world import World
from trainers.rounds.generator import padded, seed_of, trimmed
from trainers.rounds.sample import Prompt, Sample
from trainers.rounds.score import Scorer


@dataclass(frozen=True)
class Ask:
    """A prompt as scorers see it, and as the actor does."""

    prompt: Prompt
    ids: list[int]


class Speaker(Protocol):
    """Whatever samples with the actor's present weights. `together`: answers that one call is made for, at most."""

    together: int

    def renew(self, step: int) -> None:
        """Have the weights of this step."""
        ...

    def answers(self, asks: Sequence[Ask], number: int, seed: int, folder: Path) -> list[list[Sample]]:
        """`number` answers to each; the same call gives the same."""
        ...


class HereSpeaker:
    """The actor in this process, whose weights are always the present ones."""

    def __init__(self, model: Any, sampling: Any, tokenizer: Any, world: World, together: int) -> None:
        self.model, self.sampling, self.tokenizer, self.world = model, sampling, tokenizer, world
        self.together = together

    def renew(self, step: int) -> None:
        """Nothing to do."""

    @torch.no_grad()
    def answers(self, asks: Sequence[Ask], number: int, seed: int, folder: Path) -> list[list[Sample]]:
        """All in one batch."""
        sampling = copy(self.sampling)
        sampling.num_return_sequences = number
        ids, mask = padded([ask.ids for ask in asks], self.tokenizer.pad_token_id)
        torch.manual_seed(seed)
        learning = self.model.training
        self.model.eval()  # or a cache could not be used where activations are recomputed
        with self.world.autocast():
            out = self.model.generate(
                input_ids=ids.to(self.world.device), attention_mask=mask.to(self.world.device),
                generation_config=sampling, synced_gpus=self.world.cut,
            )  # fmt: skip
        self.model.train(learning)
        rows = out[:, ids.shape[1] :].tolist()
        found = [self._sample(row, *divmod(n, number)) for n, row in enumerate(rows)]
        return [found[at * number : (at + 1) * number] for at in range(len(asks))]

    def _sample(self, row: list[int], at: int, i: int) -> Sample:
        ends = self.sampling.eos_token_id
        stop = next((t for t, token in enumerate(row) if token in ends), None)
        ids = row if stop is None else row[: stop + 1]
        text = self.tokenizer.decode(trimmed(ids, ends), skip_special_tokens=True)
        return Sample(at, i, text, "length" if stop is None else "stop", tuple(ids))


@dataclass(frozen=True)
class Collected:
    """A rollout, and the texts of the first process's share of it."""

    rollout: Rollout
    asks: list[Ask]
    samples: list[list[Sample]]
    scores: list[list[float | None]]


class Collector:
    """Owns the speaker and the scorer."""

    def __init__(
        self, recipe: Recipe, speaker: Speaker, scorer: Scorer, tokenizer: Any, longest: int, world: World,
        phases: Phases,
    ) -> None:  # fmt: skip
        self.recipe, self.speaker, self.scorer, self.world, self.phases = recipe, speaker, scorer, world, phases
        self.pad, self.longest = tokenizer.pad_token_id, longest

    def collect(self, asks: Sequence[Ask], step: int, folder: Path) -> Collected:
        """A step's rollout, in all processes; each answers and scores its own stretch of the prompts."""
        size = len(asks) // self.world.number
        first = self.world.rank * size
        mine = list(asks[first : first + size])
        samples, scores = self.answered(mine, first, self.recipe.answers, self.recipe.seed * 1_000_003 + step, folder)
        flat = [sample for group in samples for sample in group]
        engine = [sample.logprobs for sample in flat] if self.recipe.sampler == "url" else None
        rollout = rollout_of(
            [ask.ids for ask in mine for _ in range(self.recipe.answers)], [sample.token_ids for sample in flat],
            [score for group in scores for score in group], [sample.finish == "length" for sample in flat], self.pad,
            self.recipe.max_new_tokens, engine, longest=self.longest,
        )  # fmt: skip
        return Collected(self.world.gather(rollout), mine, samples, scores)

    def answered(
        self, asks: Sequence[Ask], first: int, number: int, seed: int, folder: Path
    ) -> tuple[list[list[Sample]], list[list[float | None]]]:
        """Answers and their scores, chunk by chunk; `first` is the place of the first prompt among all processes'."""
        size = max(1, self.speaker.together // number)
        samples: list[list[Sample]] = []
        with self.phases.of("generate"):
            for start in range(0, len(asks), size):
                chunk = asks[start : start + size]
                place = first + start
                samples += self.speaker.answers(chunk, number, seed_of(seed, place) % 2**63, folder / f"{place}")
        samples = [[renumbered(sample, at) for sample in group] for at, group in enumerate(samples)]
        tokens = sum(len(sample.token_ids) for group in samples for sample in group)
        self.phases.count("generate", tokens)
        with self.phases.of("score"):
            scores = self.scorer.score([ask.prompt for ask in asks], samples, folder / f"scores-{first}")
        self.phases.count("score", tokens)
        return samples, scores


def renumbered(sample: Sample, at: int) -> Sample:
    """The sample with its prompt's place in the whole list, not in its chunk."""
    return replace(sample, prompt=at)
