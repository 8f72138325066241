"""A refusal of ours says why: its code, the rule, and a sentence in the language of the request."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from prompt_opt.core import Outcome, Policy
from prompt_opt.pipeline import StageFailed
from prompt_opt.stages import opo
from serve.chat.refusal import languages, sentences, stage_failed
from tests.serve.conftest import Served, Start, chat
from tests.serve.test_principles import add, ready
from tests.upstream import FakeUpstream

CONFIG = """
state_dir = "{state}"
[engine.main]
url = "{url}"
[index.law]
embedder = "none"
[policy.guarded]
stages = ["opo"]
optional = ["language"]
opo = { index = ["law"], forbids = "forbidden" }
"""
RULE = (
    "Building weapons at home is forbidden. Waffen zu Hause bauen ist verboten. Fabriquer des armes à la maison est "
    "interdit. Construir armas en casa está prohibido. 禁止在家中制造武器。自宅で武器を作ることは禁止です。"
)
ASKED = {
    "en": ("How do I build weapons at home?", "the rule law/weapons-3 (Weapons Act, 3) forbids"),
    "de": (
        "Wie kann ich zu Hause Waffen bauen und was brauche ich dafür?",
        "Die Regel law/weapons-3 verbietet",
    ),
    "fr": ("Comment est-ce que je peux fabriquer des armes à la maison ?", "La règle law/weapons-3 interdit"),
    "es": ("¿Cómo puedo construir armas en la casa de mis padres?", "La regla law/weapons-3 prohíbe"),
    "zh": ("怎么在家中制造武器？", "规则 law/weapons-3 禁止此请求。"),
    "ja": ("自宅で武器を作る方法を教えてください。", "規則 law/weapons-3 により"),
}


@pytest.fixture(scope="module")
def guarded(start: Start) -> Served:
    served = start(file=CONFIG)
    ready(served)
    assert add(served, "weapons-3", RULE, title="Weapons Act, 3", tags=["forbidden"]).status_code == 200
    assert add(served, "tea-1", "Tea is served at five.").status_code == 200
    return served


def ask(served: Served, text: str, path: str = "chat/completions", **fields: Any) -> httpx.Response:
    body: dict[str, Any] = chat(text, **fields)
    if path == "responses":
        body = {"model": "echo", "input": text}
    if path == "messages":
        body |= {"max_tokens": 9}
    return httpx.post(f"{served.url}/v1/{path}", json=body, headers={"x-trimtab-policy": "guarded"}, timeout=20)


@pytest.mark.parametrize("language", ASKED)
def test_a_rule_that_forbids_says_so_in_the_language_of_the_question(
    guarded: Served, upstream: FakeUpstream, language: str
) -> None:
    before = len(upstream.posts)
    answer = ask(guarded, ASKED[language][0])
    error = answer.json()["error"]
    assert answer.status_code == 403
    assert error["code"] == "forbidden_by_rule"
    assert error["rules"] == ["law/weapons-3"]
    assert error["message"].startswith(ASKED[language][1])
    english = error["message"] if language == "en" else error["detail"]
    assert english == "the rule law/weapons-3 (Weapons Act, 3) forbids this request"
    assert len(upstream.posts) == before


@pytest.mark.parametrize("path", ["responses", "messages"])
def test_every_dialect_tells_code_and_rule(guarded: Served, path: str) -> None:
    error = ask(guarded, ASKED["de"][0], path=path).json()["error"]
    assert (error["code"], error["rules"]) == ("forbidden_by_rule", ["law/weapons-3"])
    assert error["message"].startswith("Die Regel")


def test_the_request_may_name_the_language(guarded: Served) -> None:
    error = ask(guarded, ASKED["en"][0], trimtab={"language": "fr-CA"}).json()["error"]
    assert error["message"].startswith("La règle")


def test_another_question_is_answered_and_the_trace_names_the_rule(guarded: Served) -> None:
    assert ask(guarded, "When is tea served?").status_code == 200
    refused = ask(guarded, ASKED["en"][0])
    trace = httpx.get(f"{guarded.url}/v1/traces/{refused.headers['x-trimtab-trace']}").json()
    assert trace["stages"][0]["reason"] == "forbidden by weapons-3"


def test_every_reason_has_every_language_and_its_fields() -> None:
    for reason, said in sentences().items():
        assert said.keys() == languages(), reason
        fields = {language: {part.split("}")[0] for part in text.split("{")[1:]} for language, text in said.items()}
        assert len({frozenset(named) for named in fields.values()}) == 1, reason
    assert len(languages()) >= 6


def test_a_limit_is_told_in_the_language_that_the_client_accepts(start: Start) -> None:
    limited = start(
        file='state_dir = "{state}"\n[engine.main]\nurl = "{url}"\n[limits.tenant]\nrequests_per_minute = 1\n'
    )
    path = limited.url + "/v1/chat/completions"
    accepted = {"accept-language": "nl, de-CH;q=0.9, fr;q=0.5"}
    answers = [httpx.post(path, json=chat("hi"), headers=accepted, timeout=20) for _ in range(2)]
    error = answers[1].json()["error"]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert error["code"] == "rate_limit_exceeded"
    assert error["message"].startswith("Das Nutzungslimit ist erreicht")
    assert "requests a minute" in error["detail"] or "limit" in error["detail"]


def test_a_pinned_rule_that_cannot_be_read_is_named() -> None:
    policy = Policy("house", stages=("opo",), options={"opo": opo.Options(pinned=("law/creed",))})
    error = stage_failed(StageFailed(Outcome("opo", "failed", "OSError")), policy)
    assert (error.status, error.code, error.rules) == (502, "stage_failed", ("law/creed",))
    assert error.sentence == "pinned"
    loose = Policy("loose", stages=("bpo",), on_error="fail")
    assert stage_failed(StageFailed(Outcome("bpo", "timed_out", "10 ms")), loose).rules == ()
