"""What a sample is worth: a reward run, a judge, or a rule in Python, all by one Protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from trainers.ask.engine import Answer, Engine, Messages, ask_bodies
from trainers.ask.journal import Journal
from trainers.data.tokens import encode_answer, encode_prompt
from trainers.judge.aspects import ask_marks, read_marks
from trainers.judge.pairwise import Item, judge_pairs
from trainers.rounds.rule import load_rule, rated
from trainers.rounds.sample import Prompt, Sample
from trainers.run.recipe import RecipeError

Ask = Callable[[Mapping[str, Messages], Path], dict[str, Answer]]
Scores = list[list[float | None]]  # by prompt and sample; None: the judge gave no readable mark


class Scorer(Protocol):
    """Gives every sample a number, higher for the better answer to the same prompt."""

    def score(self, prompts: Sequence[Prompt], samples: Sequence[Sequence[Sample]], folder: Path) -> Scores:
        """Scores in the samples' order; what it took is on disk in `folder` before it counts."""
        ...


class RewardScorer:
    """The number of a reward model: the `final` of `trimtab train reward`, or an export of it."""

    def __init__(self, folder: Path) -> None:
        """Raises RecipeError where the folder holds no reward model."""
        import torch
        from transformers import AutoTokenizer

        from trainers.run.weights import load_trained

        if not folder.is_dir():
            raise RecipeError(f"reward_model {folder}: no such folder")
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.model = load_trained(folder).to("cuda" if torch.cuda.is_available() else "cpu")
        except (OSError, ValueError) as error:
            raise RecipeError(f"reward_model {folder}: cannot be loaded ({error})") from error
        if self.model.can_generate():
            raise RecipeError(f"reward_model {folder}: a language model, not one that `trimtab train reward` made")

    def score(self, prompts: Sequence[Prompt], samples: Sequence[Sequence[Sample]], folder: Path) -> Scores:
        """Journal in FOLDER/scores.jsonl; one pass an answer, so that a score depends on nothing beside it."""
        with Journal(folder / "scores.jsonl", _read, _write) as kept:
            for prompt, group in zip(tqdm(prompts, desc="scores"), samples, strict=True):
                for sample in group:
                    if kept.get(sample.key) is None:
                        kept.append(sample.key, self._reward(prompt, sample.text))
            return [[kept[sample.key] for sample in group] for group in samples]

    def _reward(self, prompt: Prompt, text: str) -> float:
        import torch

        before = encode_prompt(prompt, self.tokenizer)
        answer: Any = text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
        ids, _ = encode_answer(prompt, answer, before, self.tokenizer)
        with torch.no_grad():
            whole = torch.tensor([before + ids], device=self.model.device)
            return float(self.model(whole).logits[0, 0])


class RuleScorer:
    """A function (prompt, answer) -> number. `prompt` is text or messages, as the data has it."""

    def __init__(self, name: str) -> None:
        self.name, self.rule = name, load_rule(name)

    def score(self, prompts: Sequence[Prompt], samples: Sequence[Sequence[Sample]], folder: Path) -> Scores:
        """Journal in FOLDER/scores.jsonl. Raises RecipeError for what is no finite number."""
        with Journal(folder / "scores.jsonl", _read, _write) as kept:
            for prompt, group in zip(prompts, samples, strict=True):
                for sample in group:
                    if kept.get(sample.key) is None:
                        kept.append(sample.key, self._score(prompt, sample))
            return [[kept[sample.key] for sample in group] for group in samples]

    def _score(self, prompt: Prompt, sample: Sample) -> float:
        return rated(self.rule, self.name, prompt, sample.text, f"sample {sample.key}")


class MarksScorer:
    """A judge's marks of one answer: the mean of six aspects, 1 to 5 (arXiv 2312.01552).

    `ask` is how the judge is asked: `of_engine(judge)`, or a sampler's own `ask`, by which the actor judges itself
    (Self-Rewarding, arXiv 2401.10020).
    """

    def __init__(self, ask: Ask) -> None:
        self.ask = ask

    def score(self, prompts: Sequence[Prompt], samples: Sequence[Sequence[Sample]], folder: Path) -> Scores:
        """The judge's words are kept in FOLDER/marks.jsonl. Raises EngineError as `ask_all` does."""
        questions = {
            sample.key: ask_marks([last(prompt)], [sample.text], history=before(prompt))
            for prompt, group in zip(prompts, samples, strict=True) for sample in group
        }  # fmt: skip
        found = self.ask(questions, folder / "marks.jsonl")
        marks = {key: read_marks(answer) for key, answer in found.items()}
        return [
            [sum(mark.values()) / len(mark) if (mark := marks[sample.key]) else None for sample in group]
            for group in samples
        ]


def of_engine(engine: Engine) -> Ask:
    """How an engine is asked many questions, by their keys."""
    return lambda questions, path: ask_bodies(
        engine, {key: engine.body(asked) for key, asked in questions.items()}, path, "marks"
    )


class PairsScorer:
    """A judge's share of wins of an answer against the other samples of its prompt, each pair in both orders."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self.engine, self.seed = engine, seed

    def score(self, prompts: Sequence[Prompt], samples: Sequence[Sequence[Sample]], folder: Path) -> Scores:
        """The judge's words are kept in FOLDER/verdicts.jsonl. Raises EngineError as `ask_all` does."""
        games = [
            (at, i, j) for at, group in enumerate(samples) for i in range(len(group)) for j in range(i + 1, len(group))
        ]
        items = [
            Item(f"{at}/{i}-{j}", (last(prompts[at]),), (samples[at][i].text,), (samples[at][j].text,),
                 history=before(prompts[at]))
            for at, i, j in games
        ]  # fmt: skip
        wins: dict[tuple[int, int], list[float]] = {}
        verdicts = judge_pairs(self.engine, items, folder, seed=self.seed)
        for (at, i, j), verdict in zip(games, verdicts, strict=True):
            if verdict.readable:  # its score is the later answer's
                wins.setdefault((at, j), []).append(verdict.score)
                wins.setdefault((at, i), []).append(1 - verdict.score)
        means = {place: sum(some) / len(some) for place, some in wins.items()}
        return [[means.get((at, i)) for i in range(len(group))] for at, group in enumerate(samples)]


def last(prompt: Prompt) -> str:
    """The turn that is answered."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def before(prompt: Prompt) -> tuple[tuple[str, str], ...]:
    """(role, text) of the turns before it."""
    return () if isinstance(prompt, str) else tuple((turn["role"], turn["content"]) for turn in prompt[:-1])


def _read(row: dict[str, Any]) -> tuple[str, float]:
    return row["key"], float(row["score"])


def _write(key: str, score: float) -> dict[str, Any]:
    return {"key": key, "score": score}
