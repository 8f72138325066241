"""The stage bpo: whatever a rewriter does, no harm reaches the engine, and what is good does."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from prompt_opt.core import Advice, Chat, Context, Message, Outcome, Policy, Prompt, Supplies
from prompt_opt.gate.diff import hinted, marked, word_diff
from prompt_opt.layout.order import lay_out
from prompt_opt.pipeline import advise
from prompt_opt.rewriter.breaker import Breaker
from prompt_opt.rewriter.calls import Rewriting
from prompt_opt.rewriter.settings import rewriter
from prompt_opt.rewriter.template import BPO
from prompt_opt.stages.bpo import Bpo, Options, chosen, tail
from tests.prompt_opt.scripted import COMPLEMENTS, HINT, PROMPT, QUESTION, REPLACES, Scripted, answer

BETTER = QUESTION + " Please explain the most useful habits and why they work."


def policy(**bpo: Any) -> Policy:
    return Policy("careful", stages=("bpo",), options={"bpo": Options(**bpo)}, digest="d1")


def stage(ask: Scripted, template: str = "instruct", pol: Policy | None = None, **kwargs: Any) -> Bpo:
    rw = rewriter("r", "rewrites", template, "greedy")
    return Bpo(pol or policy(mode="replace"), Supplies(rewriting=lambda name: Rewriting(rw, ask, **kwargs)))


def chat(text: Any = QUESTION, *before: Message, **params: Any) -> Chat:
    raw = {name: msgspec.Raw(json.dumps(value).encode()) for name, value in params.items()}
    return Chat((*before, Message("user", text)), params=raw)


def context(pol: Policy, seconds: float = 2.0, tenant: str = "t") -> Context:
    return Context(pol, tenant, deadline=time.monotonic() + seconds)


async def run(
    bpo: Bpo, one: Chat, pol: Policy | None = None, seconds: float = 2.0, tenant: str = "t"
) -> tuple[Advice, Outcome, Prompt]:
    pol = pol or policy(mode="replace")
    advice, (outcome,) = await advise(one, context(pol, seconds, tenant), [bpo])
    return advice, outcome, lay_out(one, advice, pol)


def last(prompt: Prompt) -> str:
    assert prompt.messages is not None
    return prompt.messages[-1].text


# ---------------------------------------------------------------- behaviours


@pytest.mark.parametrize(("behaviour", "said", "outcome"), REPLACES, ids=[row[0] for row in REPLACES])
async def test_what_a_rewriter_does_and_what_goes_upstream(behaviour: str, said: Any, outcome: str) -> None:
    _, got, prompt = await run(stage(Scripted(said)), chat(PROMPT))
    assert str(got) == f"bpo={outcome}"
    assert (last(prompt) == PROMPT) != got.status.startswith("applied")
    if got.status == "applied":
        assert all(
            fact in last(prompt) for fact in ("Blue Harbour", "2024", "120 words", "q1_sales", "example.org/report")
        )
        assert not any(mark in last(prompt) for mark in ("```", "<think>", "improved prompt", "“"))


@pytest.mark.parametrize(("behaviour", "said", "outcome"), COMPLEMENTS, ids=[row[0] for row in COMPLEMENTS])
async def test_what_a_rewriter_hints_and_what_goes_upstream(behaviour: str, said: Any, outcome: str) -> None:
    pol = policy(mode="complement")
    _, got, prompt = await run(stage(Scripted(said), pol=pol), chat(PROMPT), pol)
    assert str(got) == f"bpo={outcome}"
    assert last(prompt) == (f"{PROMPT}\n\n{said}" if got.status == "applied" else PROMPT)


async def test_a_rewriter_that_hangs_costs_the_budget_and_no_more() -> None:
    started = time.monotonic()
    _, got, prompt = await run(stage(Scripted(BETTER, delay=60)), chat(), seconds=0.1)
    assert got.status == "timed_out"
    assert 0.05 < time.monotonic() - started < 30
    assert last(prompt) == QUESTION


async def test_the_best_of_several_is_the_one_that_the_gate_accepts() -> None:
    said = ["Sure! Go to bed early.", BETTER, "", QUESTION]
    advice, _, _ = await run(stage(Scripted(said)), chat())
    assert advice.rewrite == BETTER
    assert advice.detail["offered"] == 4


# ---------------------------------------------------------------- modes


async def test_default_modes_are_complement_for_instruct_and_replace_for_bpo() -> None:
    hint, _, _ = await run(stage(Scripted(HINT), pol=policy()), chat(), policy())
    whole, _, _ = await run(stage(Scripted(BETTER), "bpo", policy()), chat(), policy())
    assert (hint.complement, hint.rewrite) == (HINT, None)
    assert (whole.complement, whole.rewrite) == (None, BETTER)


async def test_demo_shows_the_rewrite_and_its_answer_and_keeps_the_original_last() -> None:
    pol = policy(mode="demo", demo_tokens=64)
    ask = Scripted(lambda text: "Keep regular hours." if text == BETTER else BETTER)
    advice, got, prompt = await run(stage(ask, pol=pol), chat(), pol)
    assert str(got) == "bpo=applied(demo)"
    assert [(m.role, m.text) for m in prompt.messages or ()] == [
        ("user", BETTER), ("assistant", "Keep regular hours."), ("user", QUESTION),
    ]  # fmt: skip
    assert ask.asked[1][0] == pol.engine
    assert ask.asked[1][2]["max_tokens"] == 64
    assert advice.rewrite is None


async def test_a_demo_that_is_cut_off_is_not_shown() -> None:
    pol = policy(mode="demo")
    ask = Scripted(lambda text: answer("Keep", finish="length") if text == BETTER else BETTER)
    _, got, prompt = await run(stage(ask, pol=pol), chat(), pol)
    assert str(got) == "bpo=skipped(demo: answer too long)"
    assert len(prompt.messages or ()) == 1


async def until(done: Callable[[], bool]) -> None:
    """A few turns of the event loop, and a thread's, until something is so."""
    async with asyncio.timeout(5):
        while not done():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (BETTER, {"accepted": True, "rule": ""}),
        ("Sure! Sleep more.", {"accepted": False, "rule": "answered"}),
        (OSError("500"), {"failed": "OSError"}),
        ({"choices": []}, {"failed": "BadAnswer"}),
    ],
)
async def test_shadow_records_and_changes_nothing(said: Any, found: dict[str, Any]) -> None:
    pol = policy(mode="shadow")
    advice, got, prompt = await run(stage(Scripted(said), "bpo", pol), chat(), pol)
    assert (str(got), advice, last(prompt)) == ("bpo=skipped(shadow)", Advice(), QUESTION)
    await until(lambda: "pending" not in got.detail)
    assert found.items() <= got.detail.items()
    assert got.detail["percent"] == 100


async def test_shadow_is_not_waited_for_and_ends_with_the_budget() -> None:
    pol = policy(mode="shadow")
    asked = asyncio.Event()

    class Hanging(Scripted):
        async def __call__(self, *args: Any) -> Any:
            asked.set()
            await asyncio.Event().wait()

    _, got, _ = await run(stage(Hanging(BETTER), pol=pol), chat(), pol, seconds=0.05)
    assert got.detail["pending"] is True  # the answer may go on its way, and the rewriter has not even been asked
    assert not asked.is_set()
    await until(lambda: "pending" not in got.detail)
    assert asked.is_set()
    assert got.detail["failed"] == "late"


def test_a_percentage_is_one() -> None:
    with pytest.raises(ValueError, match="between 0 and 100"):
        Options(percent=101)


# ---------------------------------------------------------------- when not to rewrite

TOOL = {"type": "function", "function": {"name": "f"}}
IMAGE = [{"type": "image_url", "image_url": {"url": "data:,"}}]
CODE = "Why?\n```python\nfor i in range(10):\n    print(i)\n    total += compute(i)\n```"


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (chat(tools=[TOOL]), "tools"),
        (chat(functions=[{"name": "f"}]), "tools"),
        (chat(QUESTION, Message("tool", "42", tool=True)), "tools"),
        (chat(response_format={"type": "json_object"}), "response_format"),
        (chat(guided_json={"type": "object"}), "guided_json"),
        (Chat((Message("user", QUESTION), Message("assistant", "Well,"))), "assistant prefill"),
        (Chat((Message("user", QUESTION), Message("system", "Be kind."))), "last message not the user's"),
        (chat(IMAGE), "image only"),
        (chat(""), "no text"),
        (chat("word " * 1000), "longer than 4000"),
        (chat("```\n" * 2000), "longer than 4000"),  # without a look for a word in all of it
        (chat(CODE), "code"),
    ],
)
async def test_what_is_not_rewritten(one: Chat, reason: str) -> None:
    ask = Scripted(BETTER)
    _, got, _ = await run(stage(ask), one)
    assert str(got) == f"bpo=skipped({reason})"
    assert not ask.asked


@pytest.mark.parametrize("params", [{"tools": []}, {"tools": None}, {"response_format": {"type": "text"}}, {"n": 2}])
async def test_what_asks_for_nothing_special_is_rewritten(params: dict[str, Any]) -> None:
    _, got, _ = await run(stage(Scripted(BETTER)), chat(**params))
    assert got.status == "applied"


async def test_a_request_can_opt_out() -> None:
    ctx = msgspec.structs.replace(context(policy()), options={"skip": ["bpo"]})
    _, (got,) = await advise(chat(), ctx, [stage(Scripted(BETTER))])
    assert str(got) == "bpo=skipped(request)"


async def test_only_the_text_of_the_last_turn_changes() -> None:
    parts = [IMAGE[0], {"type": "text", "text": QUESTION}]
    system = Message("system", "Be kind.", raw=b'{"content":"Be kind.",  "role":"system"}')
    _, got, prompt = await run(stage(Scripted(BETTER)), chat(parts, system))
    assert got.status == "applied"
    assert prompt.messages is not None
    assert prompt.messages[0].json() == system.raw
    assert prompt.messages[1].content == [IMAGE[0], {"type": "text", "text": BETTER}]


EARLIER = (Message("user", "I drink a lot of coffee."), Message("assistant", "How much?"))


async def test_a_rewriter_that_can_sees_a_bounded_tail_of_the_conversation() -> None:
    pol = policy(mode="replace", history_chars=12)
    ask = Scripted(BETTER)
    _, got, prompt = await run(stage(ask, pol=pol), chat(QUESTION, *EARLIER), pol)
    asked = ask.asked[0][2]["messages"][-1]["content"]
    assert got.status == "applied"
    assert "assistant: How much?" in asked
    assert "user: ee." in asked
    assert "I drink" not in asked
    assert [m.text for m in prompt.messages or ()][:2] == [m.text for m in EARLIER]


async def test_a_follow_up_is_not_rewritten_by_one_that_cannot_see_what_it_follows() -> None:
    blind, _, _ = await run(stage(Scripted(BETTER), "bpo"), chat(QUESTION, *EARLIER))
    assert blind == Advice()
    pol = policy(multi_turn=True)
    _, got, _ = await run(stage(Scripted(BETTER), "bpo", pol), chat(QUESTION, *EARLIER), pol)
    assert got.status == "applied"


def test_the_tail_is_cut_at_its_front() -> None:
    assert tail(chat(QUESTION, *EARLIER), 9) == (("assistant", "How much?"),)
    assert tail(chat(QUESTION, *EARLIER), 0) == ()


# ---------------------------------------------------------------- A/B, cache, single flight, breaker


def test_a_percentage_is_stable_by_key_and_text() -> None:
    texts = [f"prompt {i}" for i in range(2000)]
    mine = [chosen("a", text, 25) for text in texts]
    assert mine == [chosen("a", text, 25) for text in texts]
    assert mine != [chosen("b", text, 25) for text in texts]
    assert 0.2 < sum(mine) / len(mine) < 0.3
    assert all(chosen("a", text, 100) for text in texts)
    assert not any(chosen("a", text, 0) for text in texts)


async def test_the_control_group_says_so() -> None:
    pol = policy(percent=0)
    _, got, _ = await run(stage(Scripted(HINT), pol=pol), chat(), pol)
    assert str(got) == "bpo=skipped(A/B)"
    assert got.detail == {"arm": "control", "percent": 0}


async def test_two_keys_of_a_tenant_fall_on_sides_of_their_own_and_stay_there() -> None:
    pol = policy(mode="replace", percent=50)
    bpo = stage(Scripted(lambda text: BETTER), pol=pol)

    async def arms(key: str) -> list[str]:
        out = []
        for i in range(24):
            ctx = msgspec.structs.replace(context(pol), key=key)
            _, (outcome,) = await advise(chat(f"{QUESTION} {'!' * i}"), ctx, [bpo])
            out.append(str(outcome.detail["arm"]))
        return out

    one, other = await arms("k1"), await arms("k2")
    assert set(one) == set(other) == {"rewrite", "control"}
    assert one != other
    assert (one, other) == (await arms("k1"), await arms("k2"))


async def test_concurrent_identical_prompts_share_one_call() -> None:
    ask = Scripted(BETTER, delay=0.05)
    bpo = stage(ask)
    done = await asyncio.gather(*(run(bpo, chat()) for _ in range(64)))
    assert len(ask.asked) == 1
    assert {advice.rewrite for advice, _, _ in done} == {BETTER}


async def test_a_repeated_prompt_comes_from_the_cache() -> None:
    ask = Scripted(BETTER)
    bpo = stage(ask)
    await run(bpo, chat())
    advice, got, _ = await run(bpo, chat())
    assert len(ask.asked) == 1
    assert (advice.rewrite, str(got)) == (BETTER, "bpo=applied(replace cached)")


async def test_tenants_and_policies_never_share_an_entry() -> None:
    ask = Scripted(BETTER)
    bpo = stage(ask)
    for tenant, digest in (("a", "1"), ("b", "1"), ("a", "2"), ("a", "1")):
        await run(bpo, chat(), replace(policy(mode="replace"), digest=digest), tenant=tenant)
    assert len(ask.asked) == 3


async def test_tenants_share_no_call_in_flight_either() -> None:
    ask = Scripted(BETTER, delay=0.02)
    bpo = stage(ask)
    await asyncio.gather(*(run(bpo, chat(), tenant=tenant) for tenant in ("a", "b", "a")))
    assert len(ask.asked) == 2


async def test_rejections_are_cached_as_well() -> None:
    ask = Scripted("Sure! Sleep more.")
    bpo = stage(ask)
    outcomes = [str((await run(bpo, chat()))[1]) for _ in range(2)]
    assert outcomes == ["bpo=skipped(rejected: answered)"] * 2
    assert len(ask.asked) == 1


async def test_an_answer_that_was_late_is_there_for_the_next() -> None:
    ask = Scripted(BETTER, delay=0.1)
    bpo = stage(ask)
    _, late, _ = await run(bpo, chat(), seconds=0.05)
    await asyncio.sleep(0.1)
    _, then, _ = await run(bpo, chat())
    assert (late.status, str(then)) == ("timed_out", "bpo=applied(replace cached)")
    assert len(ask.asked) == 1


async def test_a_call_is_given_up_when_the_last_who_waits_for_it_leaves() -> None:
    ended: list[str] = []

    class Hanging(Scripted):
        async def __call__(self, *args: Any) -> Any:
            try:
                return await super().__call__(*args)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

    bpo = stage(Hanging(BETTER, delay=60))
    first, second = (asyncio.create_task(run(bpo, chat(), seconds=30)) for _ in range(2))
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.sleep(0.01)
    assert not ended
    second.cancel()
    await asyncio.sleep(0.01)
    assert ended == ["cancelled"]


async def test_who_asks_while_a_call_is_being_given_up_gets_a_call_of_their_own() -> None:
    ask = Scripted(BETTER, delay=0.02)
    bpo = stage(ask)
    first = asyncio.create_task(run(bpo, chat(), seconds=30))
    await until(lambda: len(ask.asked) == 1)
    first.cancel()
    second = asyncio.create_task(run(bpo, chat(), seconds=30))  # begins before the first call is really over
    assert str((await second)[1]) == "bpo=applied(replace)"
    assert first.cancelled()
    assert len(ask.asked) == 2


async def test_the_others_get_the_answer_when_who_asked_first_leaves() -> None:
    ask = Scripted(BETTER, delay=0.05)
    bpo = stage(ask)
    waiting = [asyncio.create_task(run(bpo, chat(), seconds=30)) for _ in range(8)]
    await until(lambda: len(ask.asked) == 1)
    waiting[0].cancel()
    done = await asyncio.gather(*waiting[1:])
    assert {str(outcome) for _, outcome, _ in done} == {"bpo=applied(replace)"}
    assert len(ask.asked) == 1


async def test_a_trial_whose_client_leaves_is_not_held_against_the_rewriter_and_the_next_one_is_the_trial() -> None:
    now = [0.0]
    ask = Scripted(OSError("500"))
    bpo = stage(ask, breaker=Breaker(1, 30, lambda: now[0]))
    await run(bpo, chat())
    now[0] = 31
    ask.says, ask.delay = BETTER, 60
    trial = asyncio.create_task(run(bpo, chat("How can I eat better?"), seconds=30))
    await until(lambda: len(ask.asked) == 2)
    trial.cancel()
    await asyncio.wait([trial])
    ask.delay = 0
    _, got, _ = await run(bpo, chat(QUESTION + "!"))
    assert got.status == "applied"


async def test_a_trial_that_fails_makes_the_rewriter_rest_again() -> None:
    now = [0.0]
    ask = Scripted(OSError("500"))
    bpo = stage(ask, breaker=Breaker(2, 30, lambda: now[0]))
    for i in range(2):
        await run(bpo, chat(f"{QUESTION} {i}"))
    now[0] = 31
    await run(bpo, chat(QUESTION))
    _, got, _ = await run(bpo, chat("How can I eat better?"))
    assert "circuit breaker open for 30 s after 3 failures" in str(got)
    assert len(ask.asked) == 3


async def test_after_failures_the_rewriter_rests_and_is_tried_once() -> None:
    now = [0.0]
    ask = Scripted(OSError("500"))
    bpo = stage(ask, breaker=Breaker(3, 30, lambda: now[0]))
    for i in range(4):
        _, got, _ = await run(bpo, chat(f"{QUESTION} {i}"))
    assert str(got) == "bpo=skipped(circuit breaker open for 30 s after 3 failures (OSError))"
    assert len(ask.asked) == 3
    now[0] = 31
    ask.says, ask.delay = BETTER, 0.05
    trial, other = await asyncio.gather(run(bpo, chat()), run(bpo, chat("How can I eat better?")))
    assert trial[1].status == "applied"
    assert "circuit breaker open" in str(other[1])
    _, got, _ = await run(bpo, chat(QUESTION + "!"))
    assert got.status == "applied"


async def test_a_hanging_rewriter_is_left_alone_after_a_few() -> None:
    ask = Scripted(BETTER, delay=60)
    bpo = stage(ask, breaker=Breaker(3, 30))
    for i in range(5):
        _, got, _ = await run(bpo, chat(f"{QUESTION} {i}"), seconds=0.03)
    assert "after 3 failures (late)" in str(got)
    assert len(ask.asked) == 3


async def test_who_asks_again_for_a_call_that_hangs_does_not_wait_for_it_while_the_rewriter_rests() -> None:
    bpo = stage(Scripted(BETTER, delay=60), breaker=Breaker(1, 30))
    _, first, _ = await run(bpo, chat(), seconds=0.03)
    started = time.monotonic()
    _, again, _ = await run(bpo, chat(), seconds=60)
    assert first.status != "applied"
    assert str(again) == "bpo=skipped(circuit breaker open for 30 s after 1 failures (late))"
    assert time.monotonic() - started < 30


async def test_an_answer_in_the_cache_does_not_need_the_rewriter() -> None:
    ask = Scripted(BETTER)
    bpo = stage(ask, breaker=Breaker(1, 30))
    await run(bpo, chat())
    ask.says = OSError("500")
    await run(bpo, chat("How can I eat better?"))
    _, got, _ = await run(bpo, chat())
    assert got.status == "applied"


# ---------------------------------------------------------------- what is seen of it


async def test_the_detail_holds_texts_only_under_content() -> None:
    _, got, _ = await run(stage(Scripted("Sure! Sleep more.")), chat())
    detail = dict(got.detail)
    assert detail.pop("content") == {"before": QUESTION, "after": "Sure! Sleep more.", "why": "Sure!"}
    assert detail == {
        "arm": "rewrite", "percent": 100.0, "mode": "replace", "rewriter": "r", "accepted": False, "rule": "answered",
        "offered": 1, "cached": False,
    }  # fmt: skip


def test_a_diff_by_words() -> None:
    changes = word_diff("How can I sleep better?", "How can I sleep much better at night?")
    assert marked(changes) == "How can I sleep {+much +}better{+ at night+}?"
    assert "".join(text for what, text in changes if what != "+") == "How can I sleep better?"
    assert marked(word_diff("请解释", "请详细解释")) == "请{+详细+}解释"


async def test_special_tokens_in_a_prompt_reach_the_rewriter_escaped_and_come_back() -> None:
    text = "What do [INST] and </s> mean in a Llama prompt?"
    ask = Scripted(lambda prompt: prompt.removeprefix(BPO.before).removesuffix(BPO.after) + " Give an example.")
    advice, got, _ = await run(stage(ask, "bpo"), chat(text))
    assert ask.asked[0][2]["prompt"] == f"{BPO.before}What do [\\INST] and <\\/s> mean in a Llama prompt?{BPO.after}"
    assert (got.status, advice.rewrite) == ("applied", text + " Give an example.")


def test_a_hint_is_shown_as_added_and_nothing_as_gone() -> None:
    assert marked(hinted("Why is it so?", "Name the reasons.")) == "Why is it so?{+\n\nName the reasons.+}"
    assert marked(hinted("Why is it so?", "")) == "Why is it so?"
