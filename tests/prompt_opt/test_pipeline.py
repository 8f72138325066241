"""Stages run beside each other within the budget; what fails, is late or has no room is left out and said so."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import pytest

from prompt_opt import profile
from prompt_opt.core import Advice, Chat, Context, Exemplar, Message, Policy, Principle, Prompt, Skip
from prompt_opt.pipeline import STAGES, StageFailed, advise, bare, build, constant, fit, merge
from prompt_opt.stages.urial import Urial

CHAT = Chat((Message("user", "Why?"),))
RULES = tuple(Principle(f"r{i}", "x" * 100, score=i / 10) for i in range(4))
EXEMPLARS = tuple(Exemplar("q" * 100, "a" * 100) for _ in range(3))


@dataclass
class Fake:
    """A stage that does what it is told."""

    name: str
    do: Callable[[], Awaitable[Advice]]
    instant: bool = False
    required: bool = False

    async def __call__(self, chat: Chat, ctx: Context) -> Advice:
        return await self.do()

    async def constant(self, ctx: Context) -> Advice | None:
        return await self.do() if self.instant else None


def gives(name: str, advice: Advice, after: float = 0.0) -> Fake:
    async def do() -> Advice:
        await asyncio.sleep(after)
        return advice

    return Fake(name, do)


def breaks(name: str, error: Exception) -> Fake:
    async def do() -> Advice:
        raise error

    return Fake(name, do)


def context(budget_ms: int = 5000, options: dict[str, Any] | None = None, **policy: Any) -> Context:
    made = Policy("p", budget_ms=budget_ms, **policy)
    return Context(made, options=options or {}, deadline=time.monotonic() + budget_ms / 1000)


def size(prompt: Prompt) -> int:
    return sum(len(span.text) for span in prompt.spans)


async def test_slow_stage_is_left_out_and_the_others_apply() -> None:
    stages = [gives("opo", Advice(principles=RULES), after=30), gives("urial", Advice("Be kind.", note="3"))]
    started = time.monotonic()
    advice, outcomes = await advise(CHAT, context(500), stages)
    assert time.monotonic() - started < 10
    assert advice == Advice("Be kind.")
    assert [str(outcome) for outcome in outcomes] == ["opo=timed_out(500 ms)", "urial=applied(3)"]
    assert outcomes[0].ms >= 490


async def test_failing_stage_is_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    stages = [breaks("bpo", ValueError("secret prompt")), gives("urial", Advice("Be kind."))]
    advice, outcomes = await advise(CHAT, context(), stages)
    assert advice == Advice("Be kind.")
    assert [str(outcome) for outcome in outcomes] == ["bpo=failed(ValueError)", "urial=applied"]
    assert "stage bpo failed" in caplog.text


async def test_a_timeout_of_the_stages_own_is_a_failure_of_its_own() -> None:
    _, (outcome,) = await advise(CHAT, context(60_000), [breaks("bpo", TimeoutError())])
    assert str(outcome) == "bpo=failed(TimeoutError)"


async def test_a_stage_with_nothing_to_do_says_why() -> None:
    advice, (outcome,) = await advise(CHAT, context(), [breaks("bpo", Skip("tools"))])  # type: ignore[arg-type]
    assert (advice, str(outcome)) == (Advice(), "bpo=skipped(tools)")


@pytest.mark.parametrize("name", ["failed", "timed_out"])
async def test_a_policy_may_have_the_request_fail_instead(name: str) -> None:
    bad = breaks("opo", ValueError()) if name == "failed" else gives("opo", Advice(), after=30)
    with pytest.raises(StageFailed, match=f"stage opo {name}") as caught:
        await advise(CHAT, context(500, on_error="fail"), [gives("urial", Advice("Be kind.")), bad])
    assert caught.value.outcome.stage == "opo"


async def test_a_skipped_stage_does_not_fail_a_strict_policy() -> None:
    _, outcomes = await advise(CHAT, context(on_error="fail"), [breaks("bpo", Skip("tools"))])  # type: ignore[arg-type]
    assert outcomes[0].status == "skipped"


async def test_a_request_may_skip_a_stage() -> None:
    stages = [breaks("opo", AssertionError("must not run")), gives("urial", Advice("Be kind."))]
    advice, outcomes = await advise(CHAT, context(options={"skip": ["opo"]}), stages)
    assert advice == Advice("Be kind.")
    assert [str(outcome) for outcome in outcomes] == ["opo=skipped(request)", "urial=applied"]


async def test_stages_run_at_the_same_time() -> None:
    meeting = asyncio.Barrier(3)

    async def meet() -> Advice:
        await meeting.wait()
        return Advice(note="met")

    _, outcomes = await advise(CHAT, context(), [Fake(name, meet) for name in "abc"])
    assert [str(outcome) for outcome in outcomes] == ["a=applied(met)", "b=applied(met)", "c=applied(met)"]


async def test_a_client_that_leaves_cancels_every_stage() -> None:
    left = []

    async def wait() -> Advice:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            left.append(1)
            raise
        return Advice()

    task = asyncio.create_task(advise(CHAT, context(60_000), [Fake("a", wait), Fake("b", wait)]))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left == [1, 1]


async def test_no_stage_gives_no_advice() -> None:
    assert await advise(CHAT, context(), []) == (Advice(), ())


async def test_urial_needs_no_time() -> None:
    policy = Policy("p", stages=("urial",), profile=profile.load("default"), budget_ms=0)
    advice, (outcome,) = await advise(CHAT, Context(policy), build(policy))
    assert str(outcome) == "urial=applied(3)"
    assert advice.exemplars == policy.profile.exemplars


def test_a_policys_stages_are_built_in_its_order() -> None:
    (stage,) = build(Policy("p", stages=("urial",)))
    assert isinstance(stage, Urial)
    for name, place in STAGES.items():
        module, _, attribute = place.partition(":")
        assert getattr(import_module(module), attribute).name == name


def test_an_unknown_stage_is_an_error() -> None:
    with pytest.raises(KeyError, match="nonsense"):
        build(Policy("p", stages=("urial", "nonsense")))


def test_advice_is_merged_in_the_order_of_the_stages() -> None:
    one = Advice("Be kind.", EXEMPLARS[:1], RULES[:1], RULES[1:2], rewrite=None, complement="Cite.", note="1")
    two = Advice("Be brief.", EXEMPLARS[:1], RULES[2:3], RULES[3:], rewrite="Why so?", complement="Rhyme.")
    assert merge([one, Advice(), two]) == Advice(
        "Be kind.\n\nBe brief.",
        EXEMPLARS[:1] * 2,
        (RULES[0], RULES[2]),
        (RULES[1], RULES[3]),
        rewrite="Why so?",
        complement="Cite.",
    )
    assert merge([]) == Advice()


# ---------------------------------------------------------------- room


async def everything() -> tuple[Advice, Any]:
    stages = [
        gives("urial", Advice("i" * 100, EXEMPLARS, note="3")),
        gives("opo", Advice(pinned=(Principle("p", "y" * 100),), principles=RULES, note="4")),
        gives("bpo", Advice(rewrite="w" * 100, complement="c" * 100)),
    ]
    return await advise(CHAT, context(), stages)


@pytest.mark.parametrize("render", ["base", "chat"])
async def test_what_does_not_fit_is_dropped_in_order_and_said_so(render: Any) -> None:
    advice, outcomes = await everything()
    policy = Policy("p", render=render)
    seen = []
    room: int | None = None
    while True:
        prompt, after = fit(CHAT, advice, outcomes, policy, room, size)
        seen.append(", ".join(map(str, after)))
        if seen[-1:] == seen[-2:-1]:
            break
        assert room is None or size(prompt) <= room
        room = size(prompt) - 1
    assert seen[:-1] == [
        "urial=applied(3), opo=applied(4), bpo=applied",
        "urial=applied(3), opo=applied(3 of 4, context), bpo=applied",
        "urial=applied(3), opo=applied(2 of 4, context), bpo=applied",
        "urial=applied(3), opo=applied(1 of 4, context), bpo=applied",
        "urial=applied(3), opo=applied(0 of 4, context), bpo=applied",
        "urial=applied(3), opo=applied(0 of 4, context), bpo=applied(in part, context)",
        "urial=applied(2 of 3, context), opo=applied(0 of 4, context), bpo=applied(in part, context)",
        "urial=applied(1 of 3, context), opo=applied(0 of 4, context), bpo=applied(in part, context)",
        "urial=applied(0 of 3, context), opo=applied(0 of 4, context), bpo=applied(in part, context)",
        "urial=applied(0 of 3, context), opo=applied(0 of 4, context), bpo=skipped(context)",
        "urial=skipped(context), opo=applied(0 of 4, context), bpo=skipped(context)",
        "urial=skipped(context), opo=skipped(context), bpo=skipped(context)",
    ]


async def test_a_chat_that_never_fits_goes_as_the_client_sent_it() -> None:
    advice, outcomes = await everything()
    prompt, _ = fit(CHAT, advice, outcomes, Policy("p", render="chat"), 0, size)
    assert prompt.messages == CHAT.messages


async def test_with_room_enough_nothing_is_dropped_and_nothing_counted() -> None:
    def count(prompt: Prompt) -> int:
        raise AssertionError("an engine whose context is unknown needs no count")

    advice, outcomes = await everything()
    prompt, after = fit(CHAT, advice, outcomes, Policy("p"), None, count)
    assert after == outcomes
    assert prompt == fit(CHAT, advice, outcomes, Policy("p"), 10**6, size)[0]


async def test_an_instruction_alone_that_is_dropped_is_not_called_applied() -> None:
    advice, outcomes = await advise(CHAT, context(), [gives("urial", Advice("i" * 100, note="no exemplars"))])
    _, (after,) = fit(CHAT, advice, outcomes, Policy("p"), 0, size)
    assert str(after) == "urial=skipped(context)"


async def test_a_stage_that_failed_stays_failed_when_there_is_no_room() -> None:
    stages = [breaks("opo", ValueError()), gives("urial", Advice("i" * 100))]
    advice, outcomes = await advise(CHAT, context(), stages)
    for _, after in (fit(CHAT, advice, outcomes, Policy("p"), 0, size), bare(CHAT, outcomes, Policy("p"))):
        assert [str(outcome) for outcome in after] == ["opo=failed(ValueError)", "urial=skipped(context)"]


async def test_bare_is_the_chat_alone() -> None:
    _, outcomes = await everything()
    prompt, after = bare(CHAT, outcomes, Policy("p", render="chat"))
    assert prompt.messages == CHAT.messages
    assert [str(o) for o in after] == ["urial=skipped(context)", "opo=skipped(context)", "bpo=skipped(context)"]


def test_the_engines_special_tokens_reach_the_layout() -> None:
    policy = Policy("p", render="base", profile=profile.load("plain"))
    chat = Chat((Message("user", "an ENDOFDOC"),))
    outcomes: Any = ()
    for prompt, _ in (
        fit(chat, Advice(), outcomes, policy, None, size, {"ENDOFDOC"}),
        bare(chat, outcomes, replace(policy), {"ENDOFDOC"}),
    ):
        assert "E\\NDOFDOC" in (prompt.text or "")


async def test_an_instant_stage_that_fails_all_the_same_is_left_out() -> None:
    async def fail() -> Advice:
        raise ZeroDivisionError

    advice, outcomes = await advise(CHAT, context(), [Fake("broken", fail, instant=True)])
    assert (advice, str(outcomes[0])) == (Advice(), "broken=failed(ZeroDivisionError)")


async def test_the_constant_part_is_what_every_stage_says_of_itself() -> None:
    policy = Policy("p", profile=profile.load("default"))
    rule = Advice(pinned=RULES[:1])
    whole = await constant(
        context(), [Urial(policy), replace(gives("rules", rule), instant=True), gives("other", rule)]
    )
    assert whole is not None
    assert whole.exemplars == policy.profile.exemplars
    assert whole.pinned == RULES[:1]
    assert await constant(context(), [gives("other", rule)]) == Advice()


async def test_a_constant_part_that_cannot_be_had_is_not_known_yet() -> None:
    assert await constant(context(), [replace(breaks("rules", OSError("disk")), instant=True)]) is None


@pytest.mark.parametrize("error", [OSError("disk"), TimeoutError()])
async def test_a_required_stage_that_fails_fails_the_request_whatever_the_policy(error: Exception) -> None:
    ctx = context(on_error="skip")
    assert (await advise(CHAT, ctx, [breaks("opo", error)]))[1][0].status == "failed"
    with pytest.raises(StageFailed, match="stage opo failed"):
        await advise(CHAT, ctx, [replace(breaks("opo", error), required=True), gives("urial", Advice())])
