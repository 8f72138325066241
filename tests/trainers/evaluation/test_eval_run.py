"""Asking several arms on real sockets: nothing is lost, asked twice or counted twice, whatever happens."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import httpx
import pytest
from tqdm import tqdm

from tests.trainers.evaluation.scripted_engine import ScriptedEngine, told
from tests.upstream import FakeUpstream, Recorded, Reply
from trainers.ask import host
from trainers.ask.host import Again, Host
from trainers.ask.journal import Journal
from trainers.evaluation.arms.arm import Arm, find, read_arm
from trainers.evaluation.arms.conversation import Speaker
from trainers.evaluation.arms.sampling import Asked, Manner, Turns, ask_arms, jobs, read_answer, write_answer
from trainers.evaluation.core import Answer, Question
from trainers.evaluation.measure.measures import measured
from trainers.evaluation.measure.traces import read_found, with_principles, write_found

QUESTIONS = [Question(f"q{n}", (f"Tell me about {n}.",)) for n in range(12)]
QUICK = Manner(concurrency=4, retries=3, timeout_s=20, backoff_s=0.01)


def ask(
    arms: list[Arm], folder: Path, questions: list[Question] = QUESTIONS, samples: int = 1, manner: Manner = QUICK,
    **more: Any,
) -> Asked:  # fmt: skip
    todo = jobs(arms, questions, samples, seed=1)
    with (
        Journal(folder / "answers.jsonl", read_answer, write_answer) as kept,
        tqdm(total=len(todo), disable=True) as bar,
    ):
        return ask_arms(arms, todo, kept, manner, bar, **more)


def two(engine: ScriptedEngine) -> list[Arm]:
    return [read_arm("plain", engine.url), read_arm("law", engine.url)]


def on_disk(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text("utf-8").splitlines()]


# ---------------------------------------------------------------- what is asked and kept


def test_every_arm_answers_every_question_with_the_same_seeds_and_its_own_policy(tmp_path: Path) -> None:
    with ScriptedEngine(policies=("plain", "law")) as engine:
        asked = ask(two(engine), tmp_path, samples=2)
    assert set(engine.accepted.values()) == {1}
    assert len(engine.accepted) == 48
    seeds = {
        name: {(a.question, a.sample): a.seed for a in said} for name, said in asked.answers.items()
    }  # fmt: skip
    assert seeds["plain"] == seeds["law"]
    assert len(set(seeds["plain"].values())) == 24
    for name, said in asked.answers.items():
        for answer in said:
            assert answer.text == told(f"Tell me about {answer.question[1:]}.", name, answer.seed)
            assert answer.stages == {"urial": "applied(3)", "opo": "applied(2, without law)"}
    assert engine.highest <= 4
    order = [record.header("x-trimtab-policy") for record in engine.posts]
    assert {"plain", "law"} == set(order[:8])  # taking turns


def test_an_answer_has_its_times_and_tokens(tmp_path: Path) -> None:
    with ScriptedEngine(pause_s=0.05) as engine:
        asked = ask([read_arm(f"a={engine.url}#toy")], tmp_path, QUESTIONS[:2])
    for answer in asked.answers["a"]:
        assert answer.first_s is not None
        assert answer.total_s is not None
        assert 0.05 <= answer.first_s <= answer.total_s
        assert answer.completion_tokens == len(answer.text.split())
        assert answer.finish == "stop"
    assert asked.notes == []


class Uncounted(ScriptedEngine):
    """Its streams tell no usage, whatever they are asked, as llama-cpp-python's; whole answers do."""

    async def _generate(self, chat: bool, body: dict[str, Any], reply: Reply) -> None:
        await super()._generate(chat, {key: value for key, value in body.items() if key != "stream_options"}, reply)


def test_an_engine_whose_streams_tell_no_tokens_is_named_and_asked_without_a_stream_where_that_is_wanted(
    tmp_path: Path,
) -> None:
    with Uncounted() as engine:
        arms = [read_arm(f"a={engine.url}#toy")]
        streamed = ask(arms, tmp_path / "stream", QUESTIONS[:3])
        whole = ask(arms, tmp_path / "whole", QUESTIONS[:3], manner=replace(QUICK, stream=False))
    assert streamed.notes == ["a: its streams tell no token counts; --no-stream reads whole answers"]
    assert [answer.prompt_tokens for answer in streamed.answers["a"]] == [None] * 3
    assert whole.notes == []
    for answer in whole.answers["a"]:
        assert answer.completion_tokens == len(answer.text.split())
        assert answer.first_s is None
        assert answer.total_s is not None


def test_arms_take_turns_in_blocks_where_an_engine_keeps_one_prefix_only() -> None:
    many = [Question(f"q{n}", (f"{n}?",)) for n in range(50)]
    plain = [Arm("a", "http://x"), Arm("b", "http://x")]
    serial = [plain[0], replace(plain[1], serial=True)]

    def runs(turns: Turns, arms: list[Arm]) -> list[int]:
        """How many questions each arm has in a row."""
        order = jobs(arms, many, 1, seed=1, turns=turns)
        assert {(job.arm, job.question.id) for job in order} == {(arm.name, q.id) for arm in arms for q in many}
        return [len(list(group)) for _, group in groupby(order, key=lambda job: (job.arm, order.index(job) // 40))]

    assert max(runs("questions", serial)) <= 2
    assert max(runs("auto", plain)) <= 2
    assert runs("auto", serial) == runs("blocks", plain) == [20, 20, 20, 20, 10, 10]
    seeds = {job.question.id: job.seed for job in jobs(plain, many, 1, seed=1)}
    assert all(seeds[job.question.id] == job.seed for job in jobs(serial, many, 1, seed=1, turns="blocks"))


@pytest.mark.parametrize(("owner", "serial"), [("llamacpp", True), ("vllm", False)])
def test_an_engine_that_keeps_one_prefix_is_known_by_its_list_of_models(owner: str, serial: bool) -> None:
    class Listed(ScriptedEngine):
        async def _reply(self, record: Recorded, reply: Reply) -> None:
            if record.path == "/v1/models":
                return await reply.json({"object": "list", "data": [{"id": "toy", "owned_by": owner}]})
            return await super()._reply(record, reply)

    with Listed() as engine:
        assert find(read_arm(f"a={engine.url}#toy"))[0].serial is serial


def test_a_turn_is_asked_after_the_arms_own_answer_to_the_one_before(tmp_path: Path) -> None:
    question = Question("m", ("First.", "Second."), system="Be brief.", history=(("user", "Hi"), ("assistant", "Yes?")))
    with ScriptedEngine() as engine:
        asked = ask([read_arm(f"a={engine.url}#toy,temperature=0.5")], tmp_path, [question])
        first, second = (record.json for record in engine.posts)
    [answer] = asked.answers["a"]
    assert first["messages"] == [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "First."},
    ]  # fmt: skip
    assert second["messages"][4:] == [
        {"role": "assistant", "content": answer.texts[0]}, {"role": "user", "content": "Second."}
    ]  # fmt: skip
    assert second["temperature"] == 0.5
    assert len(answer.texts) == 2
    assert answer.completion_tokens == sum(len(text.split()) for text in answer.texts)


@pytest.mark.parametrize("refuses", [("stream_options",), ("seed",), ("stream_options", "seed")])
def test_fields_that_an_engine_refuses_are_left_out_once_and_for_all(tmp_path: Path, refuses: tuple[str, ...]) -> None:
    with ScriptedEngine(refuses=refuses) as engine:
        asked = ask([read_arm(f"a={engine.url}#toy")], tmp_path)
        bodies = [record.json for record in engine.posts]
    assert [answer.status for answer in asked.answers["a"]] == ["ok"] * 12
    assert asked.notes == [f"a: the engine refuses {' and '.join(sorted(refuses))}"]
    assert len(bodies) <= 12 + 3  # the first question tried them; the others did not
    kept = {"stream_options", "seed"} - set(refuses)
    assert all({"stream_options", "seed"} & set(body) == kept for body in bodies[4:])


def test_letters_are_asked_for_once_a_question_where_there_are_choices(tmp_path: Path) -> None:
    choice = Question("c", ("Which?",), expect={"choices": (("A", "x"), ("B", "y")), "answer": "B"})
    with ScriptedEngine(letters={" B": -0.1, "A": -2.0, "B": -3.0, "The": -4.0}) as engine:
        asked = ask([read_arm(f"a={engine.url}#toy")], tmp_path, [choice, QUESTIONS[0]], samples=2)
        letters = [record.json for record in engine.posts if "logprobs" in record.json]
    by_sample = {(a.question, a.sample): a.letters for a in asked.answers["a"]}
    assert by_sample == {("c", 0): {"B": -0.1, "A": -2.0}, ("c", 1): None, ("q0", 0): None, ("q0", 1): None}
    assert [(body["max_tokens"], body["top_logprobs"]) for body in letters] == [(1, 20)]


def test_an_engine_without_log_probabilities_is_said_once(tmp_path: Path) -> None:
    choices = [
        Question(f"c{n}", (f"Which {n}?",), expect={"choices": (("A", "x"), ("B", "y")), "answer": "B"})
        for n in range(6)
    ]
    with ScriptedEngine() as engine:
        asked = ask([read_arm(f"a={engine.url}#toy")], tmp_path, choices, manner=Manner(concurrency=1))
    assert [(a.status, a.letters) for a in asked.answers["a"]] == [("ok", None)] * 6
    assert asked.notes == ["a: the engine gives no log-probabilities, so letters are read from texts"]
    assert sum("logprobs" in record.json for record in engine.posts) == 1


def test_principles_come_from_the_traces_and_are_asked_for_once(tmp_path: Path) -> None:
    with ScriptedEngine(policies=("plain", "law")) as engine:
        arms = two(engine)
        asked = ask(arms, tmp_path, QUESTIONS[:3])
        for again in (False, True):
            with Journal(tmp_path / "traces.jsonl", read_found, write_found) as kept:
                answers, missing = with_principles(arms, asked.answers, kept)
            assert missing == 0
            assert {a.principles for said in answers.values() for a in said} == {("law-1", "law-2")}
            assert sum("traces" in record.path for record in engine.requests) == 6, again


def test_principles_that_cannot_be_read_are_unknown_and_not_none(tmp_path: Path) -> None:
    with ScriptedEngine(policies=("plain", "law")) as engine:
        arms = two(engine)
        asked = ask(arms, tmp_path, QUESTIONS[:3])
        engine.policies = ()  # nor has it traces
        with Journal(tmp_path / "traces.jsonl", read_found, write_found) as kept:
            answers, missing = with_principles(arms, asked.answers, kept)
    assert missing == 6
    assert {(a.trace, a.principles) for said in answers.values() for a in said} == {("", ())}
    rules = Question("q0", ("Tell me.",), expect={"rules": ["law"]})
    [answer] = [a for a in answers["law"] if a.question == "q0"]
    assert "rule_hit" not in measured(rules, answer)
    assert measured(rules, replace(answer, trace="t", principles=("law#2",)))["rule_hit"] == 1.0


# ---------------------------------------------------------------- what goes wrong


def test_a_busy_engine_gets_fewer_at_a_time_and_every_question_is_answered_once(tmp_path: Path) -> None:
    with ScriptedEngine(policies=("plain", "law"), room=2, pause_s=0.01) as engine:
        asked = ask(two(engine), tmp_path, samples=2, manner=Manner(concurrency=8, retries=2, backoff_s=0.01))
    assert engine.turned_away > 0
    assert engine.turned_away == asked.turned_away
    assert engine.highest <= 2
    assert set(engine.accepted.values()) == {1}
    assert len(engine.accepted) == len(on_disk(tmp_path)) == 48


async def test_a_host_that_is_too_busy_is_asked_less_at_a_time_and_later_as_much_as_before() -> None:
    host, room, at_once, limits = Host("h", 8, backoff_s=0.001), 2, 0, []

    async def once() -> None:
        nonlocal at_once
        limits.append(host.limit)
        if at_once >= room:
            raise Again("busy", busy=True)
        at_once += 1
        await asyncio.sleep(0.001)
        at_once -= 1

    await asyncio.gather(*(host.ask(once) for _ in range(40)))
    assert min(limits) < 3
    assert host.turned_away < 40  # it learns
    room = 8
    await asyncio.gather(*(host.ask(once) for _ in range(200)))
    assert host.limit == 8


def test_retry_after_holds_for_the_whole_host(tmp_path: Path) -> None:
    with ScriptedEngine() as engine:
        engine.failures = [(503, "retry-after: 0.4")]
        arms = [read_arm(f"a={engine.url}#toy"), read_arm(f"b={engine.url}#toy")]
        asked = ask(arms, tmp_path, QUESTIONS[:3], manner=Manner(concurrency=1))
        at = [record.at for record in engine.posts]
    assert at[1] - at[0] >= 0.4
    assert [len(said) for said in asked.answers.values()] == [3, 3]


def test_what_an_engine_turns_down_for_good_is_noted_and_not_asked_again(tmp_path: Path) -> None:
    with ScriptedEngine(bad=("Tell me about 3.", "Tell me about 7.")) as engine:
        arms = [read_arm(f"a={engine.url}#toy")]
        first = ask(arms, tmp_path)
        count = len(engine.posts)
        again = ask(arms, tmp_path)
    assert len(engine.posts) == count
    assert first.answers == again.answers
    refused = {a.question: a.error for a in again.answers["a"] if a.status == "refused"}
    assert refused == {"q3": "400: made up: not this one", "q7": "400: made up: not this one"}


def test_an_arm_that_refuses_everything_is_given_up_and_none_of_it_counts(tmp_path: Path) -> None:
    with ScriptedEngine(bad=tuple(q.turns[0] for q in QUESTIONS)) as bad, ScriptedEngine() as good:
        arms = [read_arm(f"bad={bad.url}#toy"), read_arm(f"good={good.url}#toy")]
        asked = ask(arms, tmp_path)
        assert asked.stopped == {"bad": f"{bad.url} refuses every request: 400: made up: not this one"}
        assert asked.answers["bad"] == []
        assert len(asked.answers["good"]) == 12
        assert len(set(bad.users())) == 5
        bad.bad = ()
        asked = ask(arms, tmp_path)
    assert {name: [a.status for a in said] for name, said in asked.answers.items()} == {
        "bad": ["ok"] * 12, "good": ["ok"] * 12
    }  # fmt: skip
    assert set((bad.accepted + good.accepted).values()) == {2}  # one each, from two engines of one name


def test_an_arm_that_is_out_of_order_is_given_up_and_the_others_go_on(tmp_path: Path) -> None:
    with ScriptedEngine(policies=("plain", "law"), broken=("law",)) as engine:
        asked = ask(two(engine), tmp_path, manner=Manner(concurrency=4, retries=1, backoff_s=0.001))
        assert len(asked.answers["plain"]) == 12
        assert {a.status for a in asked.answers["law"]} == {"failed"}
        assert "5 questions in a row got no answer" in asked.stopped["law"]
        assert "out of order" in asked.stopped["law"]
        assert [row["arm"] for row in on_disk(tmp_path)] == ["plain"] * 12  # what failed is not kept
        engine.broken = ()
        asked = ask(two(engine), tmp_path)
    assert asked.stopped == {}
    assert set(engine.accepted.values()) == {1}
    assert len(on_disk(tmp_path)) == 24


def test_an_arm_that_is_always_turned_away_is_given_up_while_others_of_its_host_are_answered(tmp_path: Path) -> None:
    with ScriptedEngine(policies=("plain", "law"), broke=("law",)) as engine:
        asked = ask(two(engine), tmp_path, manner=Manner(concurrency=4, retries=1, backoff_s=0.001))
    assert len(asked.answers["plain"]) == 12
    assert "no money left" in asked.stopped["law"]
    assert sum(record.header("x-trimtab-policy") == "law" for record in engine.posts) == 5 * 2


@pytest.mark.parametrize(
    ("failure", "message"),
    [(401, "refuses a request without a key: 401: made up 401"), (404, "has no .*/v1/chat/completions, or no model")],
)
def test_a_key_or_a_model_that_is_refused_ends_its_arm_at_once(tmp_path: Path, failure: int, message: str) -> None:
    with ScriptedEngine() as bad, ScriptedEngine() as good:
        bad.failures = [(failure, "x: y")] * 99
        asked = ask([read_arm(f"bad={bad.url}#toy"), read_arm(f"good={good.url}#toy")], tmp_path)
    assert len(bad.posts) == 1
    assert len(asked.answers["good"]) == 12
    assert re.search(message, asked.stopped["bad"])


def test_an_engine_that_is_not_there_ends_its_arm(tmp_path: Path) -> None:
    with ScriptedEngine() as good:
        asked = ask([read_arm("bad=http://127.0.0.1:9#toy"), read_arm(f"good={good.url}#toy")], tmp_path)
    assert "cannot be reached" in asked.stopped["bad"]
    assert len(asked.answers["good"]) == 12


@pytest.mark.parametrize("model", ["die-mid-stream-2", "close-without-done-2", "error-mid-stream-2", "error-html-502"])
def test_an_answer_that_breaks_off_is_no_answer(tmp_path: Path, model: str) -> None:
    with FakeUpstream() as engine:
        arms = [read_arm(f"a={engine.url}#{model}")]
        asked = ask(arms, tmp_path, QUESTIONS[:1], manner=Manner(retries=1, backoff_s=0.001))
    [answer] = asked.answers["a"]
    assert (answer.status, answer.text) == ("failed", "")
    assert "2 attempts" in answer.error
    assert len(engine.posts) == 2
    assert on_disk(tmp_path) == []


@pytest.mark.parametrize("model", ["torn-3", "ping", "stream-5"])
def test_a_stream_is_read_however_it_is_cut(tmp_path: Path, model: str) -> None:
    with FakeUpstream() as engine:
        asked = ask([read_arm(f"a={engine.url}#{model}")], tmp_path, [Question("q", ("Grüße aus 東京, alle!",))])
    assert asked.answers["a"][0].text == ("0 1 2 3 4 " if model == "stream-5" else "Grüße aus 東京, alle!")


async def told_by(*events: dict[str, Any]) -> Answer:
    """What an arm's answer is whose engine sends these events, word for word."""
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    reply = httpx.Response(200, text=body, headers={"content-type": "text/event-stream"})
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: reply)) as client:
        return await Speaker(read_arm("a=http://e#m"), Host("e"), False).converse(client, QUESTIONS[0], 0, 0)


async def test_halves_of_characters_are_put_together_or_replaced() -> None:
    """An engine that cuts its answer between two UTF-16 units sends each half in an event of its own."""
    texts = ["so \ud83d", "\ude42, but \ud83d alone"]
    answer = await told_by(*({"choices": [{"delta": {"content": text}, "finish_reason": "stop"}]} for text in texts))
    assert answer.text == "so 🙂, but \ufffd alone"


@pytest.mark.parametrize("usage", ["lots", [1], {"prompt_tokens": "9", "completion_tokens": -1},
                                   {"prompt_tokens": True, "prompt_tokens_details": [1]}])  # fmt: skip
async def test_tokens_that_are_told_in_a_strange_way_are_unknown(usage: Any) -> None:
    last = {"choices": [], "usage": usage}
    answer = await told_by({"choices": [{"delta": {"content": "yes"}, "finish_reason": "stop"}]}, last)
    assert (answer.text, answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens) == ("yes", *[None] * 3)


def test_an_engines_words_do_nothing_to_the_terminal() -> None:
    reply = httpx.Response(400, text=json.dumps({"error": {"message": "no\x1b[2J\n\u202eway \ud83d"}}))
    assert host.said(reply) == "no [2J way"


# ---------------------------------------------------------------- kill -9


CHILD = """
import sys
from pathlib import Path
from tests.trainers.evaluation.test_eval_run import QUESTIONS, ask, two
from trainers.evaluation.arms.arm import read_arm
ask([read_arm(name, sys.argv[1]) for name in ("plain", "law")], Path(sys.argv[2]), samples=2)
"""


def test_kill_9_loses_nothing_and_counts_nothing_twice(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    with ScriptedEngine(policies=("plain", "law")) as engine:
        uninterrupted = ask(two(engine), whole, samples=2)
    with ScriptedEngine(policies=("plain", "law"), most=17) as engine:
        env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
        child = subprocess.Popen([sys.executable, "-c", CHILD, engine.url, str(cut)], env=env)
        engine.wait_request(17 + 3, timeout=60)  # four hang for ever, so that seventeen are on disk
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert len(on_disk(cut)) == 17
        with (cut / "answers.jsonl").open("ab") as file:
            file.write(b'{"arm": "plain", "question": "q0", "a line that the kill cut sho')
        engine.most = 10**9
        resumed = ask(two(engine), cut, samples=2)
    timeless = [
        {name: [_timeless(a) for a in said] for name, said in asked.answers.items()}
        for asked in (uninterrupted, resumed)
    ]  # fmt: skip
    assert timeless[0] == timeless[1]
    rows = on_disk(cut)
    assert set(Counter((row["arm"], row["question"], row["sample"]) for row in rows).values()) == {1}
    assert len(rows) == 48
    assert sum(engine.accepted.values()) <= 48 + 4  # what was under way may have been answered to nobody


def _timeless(answer: Answer) -> tuple[Any, ...]:
    return (answer.question, answer.sample, answer.seed, answer.status, answer.texts, answer.completion_tokens)
