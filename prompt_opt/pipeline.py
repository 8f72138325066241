"""Run a policy's stages beside each other, each within the budget, and fit what they advise into the context.

This is the one place that catches whatever a stage may raise: a stage that fails or is late is left out (or fails the
request, where the policy says so), and its outcome says which.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import import_module
from types import ModuleType

from msgspec.structs import replace

from prompt_opt.core import (
    Advice,
    Chat,
    Context,
    Forbidden,
    Outcome,
    Policy,
    Principle,
    Prompt,
    Skip,
    Stage,
    State,
    Supplies,
)
from prompt_opt.layout.order import lay_out, shed
from prompt_opt.stages.check import Facts

log = logging.getLogger("trimtab.pipeline")

# name -> "module:class", made with the policy and the supplies; loaded when a policy names it. The module's `Options`,
# where it has them, is what `[policy.NAME.STAGE]` resolves to; its `check` then holds these against the configuration.
STAGES: Mapping[str, str] = {
    "urial": "prompt_opt.stages.urial:Urial",
    "opo": "prompt_opt.stages.opo:Opo",
    "bpo": "prompt_opt.stages.bpo:Bpo",
}
_NOTHING = Supplies()
_NO_ADVICE = Advice()


class StageFailed(Exception):
    """A stage failed, and the policy lets no request go on without it."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(f"stage {outcome.stage} {outcome.status}: {outcome.reason}")
        self.outcome = outcome


class Forbidding(StageFailed):
    """A rule that a stage found forbids the request."""

    def __init__(self, outcome: Outcome, rule: Principle) -> None:
        super().__init__(outcome)
        self.rule = rule


def options(stage: str) -> type | None:
    """The dataclass of a stage's own settings; None for a stage that has none."""
    found: type | None = getattr(_module(stage), "Options", None)
    return found


def check(stage: str, policy: Policy, facts: Facts) -> None:
    """Let a stage of the policy check its settings against the configuration.

    Raises:
        SettingError: one of them is wrong.
    """
    if checks := getattr(_module(stage), "check", None):
        checks(policy.options.get(stage), policy, facts)


def indexes(policy: Policy) -> frozenset[str]:
    """The names of the indexes that the policy's stages read."""
    return frozenset().union(*(getattr(policy.options.get(stage), "indexes", ()) for stage in policy.stages))


def digest(policy: Policy, states: Mapping[str, State]) -> str:
    """A hash of everything that the policy does to a prompt: of its settings, and of the indexes in these states."""
    if not states:
        return policy.digest
    read = "".join(f" {name}={found}" for name, (_, found) in sorted(states.items()))
    return hashlib.sha256((policy.digest + read).encode()).hexdigest()[:12]


def _module(stage: str) -> ModuleType:
    return import_module(STAGES[stage].partition(":")[0])


def build(policy: Policy, supplies: Supplies = _NOTHING) -> tuple[Stage, ...]:
    """The policy's stages, in its order.

    Raises:
        KeyError: a stage that does not exist (the configuration is checked before, so this is a bug).
    """
    stages = []
    for name in policy.stages:
        attribute = STAGES[name].partition(":")[2]
        stages.append(getattr(_module(name), attribute)(policy, supplies))
    return tuple(stages)


async def advise(chat: Chat, ctx: Context, stages: Sequence[Stage]) -> tuple[Advice, tuple[Outcome, ...]]:
    """Ask every stage for its advice, all at once, and merge what comes in time.

    Raises:
        StageFailed: a stage failed or was late, and the policy says "fail" or the stage is required.
    """
    if len(stages) == 1:
        results = [await _ask(stages[0], chat, ctx)]
    else:
        results = list(await asyncio.gather(*(_ask(stage, chat, ctx) for stage in stages)))
    outcomes = tuple([outcome for _, outcome in results])
    strict = ctx.policy.on_error == "fail"
    for outcome, stage in zip(outcomes, stages, strict=True):
        if outcome.status in ("failed", "timed_out") and (strict or stage.required):
            raise StageFailed(outcome)
    return merge([advice for advice, _ in results]), outcomes


def reads(policy: Policy) -> frozenset[str]:
    """The request's own options ("region"…) that the policy's stages let a request decide by."""
    return frozenset().union(*(getattr(policy.options.get(stage), "reads", ()) for stage in policy.stages))


async def constant(ctx: Context, stages: Sequence[Stage]) -> Advice | None:
    """The advice that every request of the policy gets; None where a stage cannot say it now."""
    try:
        return merge([advice for stage in stages if (advice := await stage.constant(ctx)) is not None])
    except Exception as error:  # noqa: BLE001  a stage may raise anything
        log.warning("policy %s: its constant part is not known yet: %s", ctx.policy.name, error)
        return None


async def _ask(stage: Stage, chat: Chat, ctx: Context) -> tuple[Advice, Outcome]:
    if ctx.options and stage.name in ctx.options.get("skip", ()):
        return _NO_ADVICE, Outcome(stage.name, "skipped", "request")
    if stage.instant:  # clocks would cost more than it does
        try:
            return _applied(stage, await stage(chat, ctx), 0.0)
        except Exception as error:  # noqa: BLE001  a stage may raise anything
            return _left_out(stage, error, 0.0)
    started, budget = time.monotonic(), asyncio.timeout(ctx.remaining)
    try:
        async with budget:
            advice = await stage(chat, ctx)
    except Exception as error:  # noqa: BLE001  a stage may raise anything
        ms = _since(started)
        if budget.expired() and isinstance(error, TimeoutError):
            return _NO_ADVICE, Outcome(stage.name, "timed_out", f"{ctx.policy.budget_ms} ms", ms)
        return _left_out(stage, error, ms)
    return _applied(stage, advice, _since(started))


def _since(started: float) -> float:
    return round((time.monotonic() - started) * 1000, 3)


def _applied(stage: Stage, advice: Advice, ms: float) -> tuple[Advice, Outcome]:
    return advice, Outcome(stage.name, "applied", advice.note, ms, advice, advice.detail, advice.states)


def _left_out(stage: Stage, error: Exception, ms: float) -> tuple[Advice, Outcome]:
    """What becomes of a stage that raised. Raises Forbidding where a rule forbids the request."""
    if isinstance(error, Forbidden):
        raise Forbidding(Outcome(stage.name, "failed", f"forbidden by {error.rule.id}", ms), error.rule) from None
    if isinstance(error, Skip):
        return _NO_ADVICE, Outcome(stage.name, "skipped", str(error), ms, detail=error.detail, states=error.states)
    log.error("stage %s failed", stage.name, exc_info=error)
    return _NO_ADVICE, Outcome(stage.name, "failed", type(error).__name__, ms)


def merge(advices: Sequence[Advice]) -> Advice:
    """One advice out of several: texts from the one that gives them, principles and exemplars of all."""
    if len(advices) == 1:
        return advices[0]
    return Advice(
        instruction="\n\n".join(a.instruction for a in advices if a.instruction),
        exemplars=tuple(e for a in advices for e in a.exemplars),
        pinned=tuple(p for a in advices for p in a.pinned),
        principles=tuple(p for a in advices for p in a.principles),
        frame=next((a.frame for a in advices if a.principles), "quoted"),
        cite=next((a.cite for a in advices if a.cite), ""),
        rewrite=next((a.rewrite for a in advices if a.rewrite is not None), None),
        demos=tuple(d for a in advices for d in a.demos),
        complement=next((a.complement for a in advices if a.complement is not None), None),
    )


def fit(
    chat: Chat,
    advice: Advice,
    outcomes: Sequence[Outcome],
    policy: Policy,
    room: int | None,
    count: Callable[[Prompt], int],
    specials: Collection[str] = (),
) -> tuple[Prompt, tuple[Outcome, ...]]:
    """Lay out the chat, dropping advice in the layout's order until the prompt has at most `room` tokens.

    When nothing is left to drop the prompt goes as it is: the engine then says what it would have said without us.
    """
    prompt, kept = lay_out(chat, advice, policy, specials), advice
    if room is not None and count(prompt) > room:
        # What is left only shrinks, so few of the steps need to be laid out and counted: a chat may be long.
        steps = [advice]
        while (smaller := shed(steps[-1])) is not None:
            steps.append(smaller)

        def fits(step: Advice) -> bool:
            return count(lay_out(chat, step, policy, specials)) <= room

        at = bisect_left(steps, True, 1, max(1, len(steps) - 1), key=fits) if fits(steps[-1]) else len(steps) - 1
        kept = steps[at]
        prompt = lay_out(chat, kept, policy, specials)
    if kept is advice:
        return prompt, tuple(outcomes)
    return prompt, tuple(_after(outcome, kept) for outcome in outcomes)


def bare(
    chat: Chat, outcomes: Sequence[Outcome], policy: Policy, specials: Collection[str] = (), reason: str = "context"
) -> tuple[Prompt, tuple[Outcome, ...]]:
    """The chat without any advice, for an engine that refused the prompt; `reason` says why."""
    outcomes = tuple(replace(o, status="skipped", reason=reason) if o.status == "applied" else o for o in outcomes)
    return lay_out(chat, Advice(), policy, specials), outcomes


def _after(outcome: Outcome, kept: Advice) -> Outcome:
    """The outcome of a stage, now that the context has left `kept` of all advice."""
    gave = outcome.gave
    rows = [*gave.exemplars, *gave.demos, *gave.principles]
    remaining = {id(row) for row in (*kept.exemplars, *kept.demos, *kept.principles)}
    left = [row for row in rows if id(row) in remaining]
    texts = [
        (gave.instruction, bool(kept.instruction)),
        (gave.pinned, bool(kept.pinned)),
        (gave.rewrite, kept.rewrite is not None),
        (gave.complement, kept.complement is not None),
    ]
    stays = [is_kept for given, is_kept in texts if given]
    if outcome.status != "applied" or (len(left) == len(rows) and all(stays)):
        return outcome
    if not left and not any(stays):
        return replace(outcome, status="skipped", reason="context")
    return replace(outcome, reason=f"{len(left)} of {len(rows)}, context" if rows else "in part, context")
