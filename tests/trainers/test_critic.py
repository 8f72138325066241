"""The critic of BPO on a real socket: what it is asked, how it is read, and that no answer is ever lost."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from prompt_opt.gate.verdict import judge
from tests.trainers.scripted_critic import ScriptedCritic, marked, parts
from trainers.ask.engine import Answers, Engine, EngineError, ask_all
from trainers.judge import critic

QUESTIONS = [critic.compare(f"Tell me about {n}.", "no", "yes") for n in range(12)]


@pytest.fixture
def engine() -> Iterator[ScriptedCritic]:
    with ScriptedCritic(lambda asked: marked(parts(asked)[0] + " Give reasons.")) as it:
        yield it


def at(engine: ScriptedCritic, **more: object) -> Engine:
    return Engine(engine.url, "judge", backoff_s=0.01, **more)  # type: ignore[arg-type]


# ---------------------------------------------------------------- the question and the answer


def test_the_question_holds_every_text_and_no_context_where_there_is_none() -> None:
    system, user = critic.compare("Say why.", "weak ~~~~ one", "strong one")
    assert parts(user["content"]) == ["Say why.", "weak ~~~~ one", "strong one"]
    assert "{" not in system["content"]
    assert "comes with" not in system["content"] + user["content"]
    system, user = critic.compare("Sum it up.", "weak", "strong", "A {long} text.")
    assert parts(user["content"]) == ["Sum it up.", "A {long} text.", "weak", "strong"]
    assert "do not repeat it" in system["content"]


@pytest.mark.parametrize(
    ("answer", "rewrite"),
    [
        (marked("Say why."), "Say why."),
        ("x\n[REWRITE]\n  a\n\nb \n[/REWRITE] [END]", "a\n\nb"),
        (marked("a draft") + marked("the last"), "the last"),
        ("[REWRITE]\ncut off", None),
        ("Say why.", None),
        ("__import__('os').abort()", None),
    ],
)
def test_a_rewrite_is_what_stands_between_the_marks(answer: str, rewrite: str | None) -> None:
    assert critic.read_rewrite(answer) == rewrite


@pytest.mark.parametrize(("answer", "mark"), [("Fine.\n[SCORE] 7", 7.0), ("[SCORE]: 8.5", 8.5), ("[SCORE] 70", None),
                                              ("[SCORE] 2\n[SCORE] 3", 3.0), ("ten", None)])  # fmt: skip
def test_a_mark_is_a_number_from_1_to_10(answer: str, mark: float | None) -> None:
    assert critic.read_score(answer) == mark


def test_marks_that_stay_in_a_rewrite_are_seen_by_the_gate() -> None:
    assert judge("Say why.", "Say why. [REWRITE]").rule == "leak"


def test_context_stands_with_its_instruction_in_any_layout() -> None:
    layouts = {critic.together("Sum {context} up.", "It {instruction} rained.", seed) for seed in range(6)}
    assert len(layouts) == 6
    assert all("Sum {context} up." in text and "It {instruction} rained." in text for text in layouts)


# ---------------------------------------------------------------- asking


def test_answers_come_in_the_order_of_the_questions(engine: ScriptedCritic, tmp_path: Path) -> None:
    said = ask_all(at(engine, concurrency=4), QUESTIONS, tmp_path / "a.jsonl", "critic")
    assert [critic.read_rewrite(a.text) for a in said] == [f"Tell me about {n}. Give reasons." for n in range(12)]
    assert 1 < engine.highest <= 4
    assert engine.requests[0].json["temperature"] == 0.9


def test_a_rerun_asks_only_what_is_missing(engine: ScriptedCritic, tmp_path: Path) -> None:
    ask_all(at(engine), QUESTIONS[:7], tmp_path / "a.jsonl", "critic")
    engine.clear()
    ask_all(at(engine), QUESTIONS, tmp_path / "a.jsonl", "critic")
    assert len(engine.requests) == 5
    ask_all(at(engine, temperature=0.5), QUESTIONS[:1], tmp_path / "a.jsonl", "critic")
    assert len(engine.requests) == 6  # another question


def test_the_key_comes_from_the_environment(
    engine: ScriptedCritic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-1")
    ask_all(at(engine, key_env="JUDGE_KEY"), QUESTIONS[:1], tmp_path / "a.jsonl", "critic")
    assert engine.requests[0].header("authorization") == "Bearer sk-1"
    assert "sk-1" not in (tmp_path / "a.jsonl").read_text()
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(EngineError, match="no JUDGE_KEY"):
        ask_all(at(engine, key_env="JUDGE_KEY"), QUESTIONS[1:2], tmp_path / "a.jsonl", "critic")


def test_failures_that_pass_are_asked_again(engine: ScriptedCritic, tmp_path: Path) -> None:
    engine.failures = [500, (429, "retry-after: 0.2"), 503]
    started = time.monotonic()
    said = ask_all(at(engine, concurrency=1), QUESTIONS[:2], tmp_path / "a.jsonl", "critic")
    assert [a.refused for a in said] == ["", ""]
    assert len(engine.requests) == 5
    assert engine.requests[2].at - engine.requests[1].at > 0.2  # Retry-After, not the backoff of 0.02 s
    assert time.monotonic() - started > 0.2


def test_requests_keep_the_rate(engine: ScriptedCritic, tmp_path: Path) -> None:
    ask_all(at(engine, requests_per_minute=1200.0), QUESTIONS[:6], tmp_path / "a.jsonl", "critic")
    assert engine.requests[-1].at - engine.requests[0].at > 5 * 0.05 - 0.02


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (401, "refuses a request without a key: 401: made up 401"),
        (404, "has no http.*/v1/chat/completions, or no model 'judge'"),
        ((429, "retry-after: 90000"), "asks for 90000 s without requests"),
    ],
)
def test_what_no_question_would_survive_ends_the_round(
    engine: ScriptedCritic, tmp_path: Path, failure: int, message: str
) -> None:
    ask_all(at(engine), QUESTIONS[:2], tmp_path / "a.jsonl", "critic")
    engine.failures = [failure] * 12
    with pytest.raises(EngineError, match=message + ".*2 of 12 answers are kept in .*a.jsonl; run the same command"):
        ask_all(at(engine), QUESTIONS, tmp_path / "a.jsonl", "critic")


def test_an_engine_that_stays_away_is_named(engine: ScriptedCritic, tmp_path: Path) -> None:
    engine.failures = [500] * 9
    with pytest.raises(EngineError, match=r"answered 500: made up 500 \(3 attempts\)"):
        ask_all(at(engine, retries=2), QUESTIONS[:1], tmp_path / "a.jsonl", "critic")
    with pytest.raises(EngineError, match=r"engine http://127.0.0.1:9/v1 cannot be reached.*is it running"):
        ask_all(Engine("http://127.0.0.1:9/v1", "judge"), QUESTIONS[:1], tmp_path / "a.jsonl", "critic")
    with pytest.raises(EngineError, match="http://"):
        ask_all(Engine("127.0.0.1:9", "judge"), QUESTIONS[:1], tmp_path / "a.jsonl", "critic")


def test_one_refused_question_is_noted_and_not_asked_again(engine: ScriptedCritic, tmp_path: Path) -> None:
    engine.failures = [400]
    said = ask_all(at(engine, concurrency=1), QUESTIONS[:3], tmp_path / "a.jsonl", "critic")
    assert [a.refused for a in said] == ["400: made up 400", "", ""]
    ask_all(at(engine), QUESTIONS[:3], tmp_path / "a.jsonl", "critic")
    assert len(engine.requests) == 3


def test_an_engine_that_refuses_everything_is_stopped_and_forgotten(engine: ScriptedCritic, tmp_path: Path) -> None:
    engine.failures = [400] * 12
    with pytest.raises(EngineError, match="refuses every request: 400"):
        ask_all(at(engine, concurrency=1), QUESTIONS, tmp_path / "a.jsonl", "critic")
    assert len(engine.requests) == 5
    engine.failures = []
    assert all(not a.refused for a in ask_all(at(engine), QUESTIONS, tmp_path / "a.jsonl", "critic"))


# ---------------------------------------------------------------- what is on disk


CHILD = """
import sys
from pathlib import Path
from trainers.judge import critic
from trainers.ask.engine import Engine, ask_all
questions = [critic.compare(f"Tell me about {n}.", "no", "yes") for n in range(12)]
ask_all(Engine(sys.argv[1], "judge", concurrency=2), questions, Path(sys.argv[2]), "critic")
"""


def test_kill_9_loses_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with ScriptedCritic(lambda asked: marked(parts(asked)[0]), most=5) as engine:
        env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        child = subprocess.Popen([sys.executable, "-c", CHILD, engine.url, str(path)], env=env,
                                 stderr=subprocess.PIPE)  # fmt: skip
        engine.wait_request(6, timeout=60)  # the sixth and seventh wait for ever, so five were read and kept
        child.send_signal(signal.SIGKILL)
        child.communicate()
        engine.most = 10**9
        engine.clear()
        with path.open("ab") as file:
            file.write(b'{"key": "a line that the kill cut sho')
        said = ask_all(at(engine), QUESTIONS, path, "critic")
    assert len(engine.requests) == 7
    assert [critic.read_rewrite(a.text) for a in said] == [f"Tell me about {n}." for n in range(12)]
    assert [json.loads(line)["finish"] for line in path.read_text().splitlines()] == ["stop"] * 12


def test_only_one_run_writes_a_file(tmp_path: Path) -> None:
    with Answers(tmp_path / "a.jsonl"), pytest.raises(EngineError, match="another run"):
        Answers(tmp_path / "a.jsonl")


def test_a_line_that_is_no_answer_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"key": "k", "text": "t"}\n[1]\n{"key": "l", "text": "t"}\n')
    with pytest.raises(EngineError, match=r"a.jsonl:2: not a row of this file"):
        Answers(tmp_path / "a.jsonl")
