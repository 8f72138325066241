"""The scored samples of one prompt, which is what a selector chooses from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trainers.rounds.sample import Prompt


@dataclass(frozen=True, slots=True)
class Scored:
    """A sample's text and what it is worth; 0 where the selector needs no score."""

    text: str
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class Group:
    """One prompt. `gold` is the data's own answer, `others` are answers to the worse variant of the prompt (RLCD)."""

    prompt: Prompt
    samples: tuple[Scored, ...]
    gold: Any = None
    others: tuple[Scored, ...] = ()

    def answer(self, text: str) -> Any:
        """The text in the prompt's form: itself, or one assistant message."""
        return text if isinstance(self.prompt, str) else [{"role": "assistant", "content": text}]

    def unique(self) -> list[Scored]:
        """The samples without doubles, in their order."""
        found: dict[str, Scored] = {}
        for scored in self.samples:
            found.setdefault(scored.text, scored)
        return list(found.values())


@dataclass(frozen=True, slots=True)
class Choice:
    """The settings that selectors read; each says which."""

    keep: int = 8
    score_beta: float = 1.0
    least_gap: float = 0.0
    agreement: float = 0.5
    win_shares: bool = False  # the scores are shares of wins against the other samples
    same: Callable[[str, str], bool] | None = None
