"""One chat's prompt now and as a change would make it: what was asked of no engine, and differs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prompt_opt.core import Chat, Context, Indexes, Outcome, Policy, Principle, Prompt, Stage, Supplies, estimate
from prompt_opt.layout.order import lay_out
from prompt_opt.pipeline import advise, build, digest
from serve.approval.desk import Desk
from serve.approval.trial import Trial
from serve.chat.record import states_of

_ASKING = ("bpo",)  # stages that ask an engine
_BUDGET_S = 3600.0


@dataclass(frozen=True, slots=True)
class Side:
    """A chat's prompt under one state of a policy."""

    policy: Policy
    prompt: Prompt
    outcomes: Sequence[Outcome]
    digest: str
    rules: Mapping[str, str]  # "INDEX/ID" -> its text
    tokens: int  # estimated


@dataclass(frozen=True, slots=True)
class Difference:
    """What a change does to one prompt. `before` is None where the policy is new, `after` where it is withdrawn."""

    before: Side | None
    after: Side | None

    @property
    def changed(self) -> bool:
        """Whether the engine would get another prompt."""
        if self.before is None or self.after is None:
            return True
        return _sent(self.before.prompt) != _sent(self.after.prompt)

    def row(self) -> dict[str, Any]:
        """It as JSON: which rules come, go or are reworded, and the tokens added."""
        old = self.before.rules if self.before else {}
        new = self.after.rules if self.after else {}
        return {
            "changed": self.changed,
            "came": sorted(new.keys() - old.keys()),
            "went": sorted(old.keys() - new.keys()),
            "reworded": sorted(name for name in new.keys() & old.keys() if new[name] != old[name]),
            "tokens_added": (self.after.tokens if self.after else 0) - (self.before.tokens if self.before else 0),
        }


class Comparison:
    """Compares prompts under a change; builds the stages of a policy once on each side."""

    def __init__(self, desk: Desk, trial: Trial) -> None:
        self.trial = trial
        self._sides = (desk.config.policies, _Live(desk)), (trial.config.policies, trial)
        self._stages: dict[tuple[int, str], tuple[Policy, Sequence[Stage]] | None] = {}

    async def compare(self, chat: Chat, policy: str, options: Mapping[str, Any], tenant: str = "") -> Difference:
        """A chat's prompts under a policy, as it is and as the change would make it.

        Raises:
            StageFailed: a stage failed that the policy requires. NoPlace: the chat has no place in the prompt.
        """
        before, after = [await self._side(i, chat, policy, options, tenant) for i in (0, 1)]
        return Difference(before, after)

    async def _side(self, which: int, chat: Chat, name: str, options: Mapping[str, Any], tenant: str) -> Side | None:
        if (found := self._built(which, name)) is None:
            return None
        policy, stages = found
        advice, outcomes = await advise(chat, Context(policy, tenant, options, time.monotonic() + _BUDGET_S), stages)
        prompt = lay_out(chat, advice, policy)
        rules = _rules((*advice.pinned, *advice.principles))
        return Side(policy, prompt, outcomes, digest(policy, states_of(outcomes)), rules, _tokens(prompt))

    def _built(self, which: int, name: str) -> tuple[Policy, Sequence[Stage]] | None:
        if (which, name) not in self._stages:
            policies, indexes = self._sides[which]
            policy = policies.get(name)
            self._stages[which, name] = None if policy is None else (policy, _silent(policy, indexes))
        return self._stages[which, name]


class _Live:
    """The indexes in use, as stages want them."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._open: dict[str, Any] = {}

    def opened(self, name: str) -> Any | None:
        """The index, if it has been opened here."""
        return self._open.get(name)

    def open(self, name: str) -> Any:
        """The index, opened if need be."""
        if name not in self._open:
            self._open[name] = self._desk.open_index(name)
        return self._open[name]


def _silent(policy: Policy, indexes: Indexes) -> Sequence[Stage]:
    """The policy's stages but for those that ask an engine."""
    stages = tuple(name for name in policy.stages if name not in _ASKING)
    return build(replace(policy, stages=stages), Supplies(indexes))


def _rules(quoted: Sequence[Principle]) -> dict[str, str]:
    return {it.reference: it.text for it in quoted}


def _tokens(prompt: Prompt) -> int:
    return sum(estimate(span.text) for span in prompt.spans)


def _sent(prompt: Prompt) -> object:
    return prompt.text if prompt.messages is None else tuple(message.json() for message in prompt.messages)
