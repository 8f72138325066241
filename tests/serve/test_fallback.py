"""A policy's fallbacks: another engine where its own does not serve a request, and the response says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from serve.config import ConfigError, Flags
from serve.configure.reader import load
from tests.serve.conftest import Start, chat, events
from tests.upstream import FakeUpstream

PATH = "/v1/chat/completions"
FILE = """
state_dir = "{state}"
[server]
timeout_s = 1
[engine.main]
url = "MAIN"
IDEMPOTENT
[engine.spare]
url = "SPARE"
model = "echo"
[engine.gone]
url = "http://127.0.0.1:1"
[policy.raw-safe]
stages = []
fallback = ["spare"]
[policy.chat]
fallback = ["spare"]
[policy.base]
render = "base"
fallback = ["spare"]
[policy.gone]
engine = "gone"
fallback = ["main", "spare"]
"""


@pytest.fixture
def engines() -> Iterator[tuple[FakeUpstream, FakeUpstream]]:
    with ExitStack() as stack:
        yield stack.enter_context(FakeUpstream()), stack.enter_context(FakeUpstream())


def file(engines: tuple[FakeUpstream, FakeUpstream], idempotent: str = "") -> str:
    text = FILE.replace("MAIN", engines[0].url).replace("SPARE", engines[1].url)
    return text.replace("IDEMPOTENT", idempotent)


async def ask(http: httpx.AsyncClient, policy: str, model: str, **more: Any) -> httpx.Response:
    headers = {"x-trimtab-policy": policy, "authorization": "Bearer mine"}
    return await http.post(PATH, json=chat("hi", model, **more), headers=headers)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("policy", ["raw-safe", "chat", "base"])
async def test_a_fallback_serves_what_the_policys_engine_does_not(
    engines: tuple[FakeUpstream, FakeUpstream], start: Start, policy: str, stream: bool
) -> None:
    main, spare = engines
    trimtab = start(file=file(engines))
    async with httpx.AsyncClient(base_url=trimtab.url, timeout=20) as http:
        for status in (500, 502, 503, 504, 429):  # the last asks for a pause
            answer = await ask(http, policy, f"error-{status}", stream=stream)
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-trimtab-engine"] == "spare"
            assert not stream or events(answer.text)[-1] == "[DONE]"
            trace = (await http.get(f"/v1/traces/{answer.headers['x-trimtab-trace']}")).json()
            assert (trace["engine"], trace["policy"]) == ("spare", policy)
            assert f"engine main: it answered {status}" in trace["notes"]
        assert [it.model for it in spare.posts] == ["echo"] * 5  # its own model: the name was meant for the other
        assert {it.header("authorization") for it in main.posts} == {"Bearer mine"}
        assert {it.header("authorization") for it in spare.posts} == {None}
        assert len(main.posts) == 5
        assert (await ask(http, policy, "echo")).headers["x-trimtab-engine"] == "spare"
        assert len(main.posts) == 5  # it is left alone for as long as its Retry-After says


async def test_answers_that_are_the_clients_stay_so(engines: tuple[FakeUpstream, FakeUpstream], start: Start) -> None:
    trimtab = start(file=file(engines))
    async with httpx.AsyncClient(base_url=trimtab.url, timeout=20) as http:
        for model, status in (("echo", 200), ("error-400", 400), ("error-404", 404)):
            answer = await ask(http, "chat", model)
            assert answer.status_code == status
            assert "x-trimtab-engine" not in answer.headers
    assert engines[1].posts == []


async def test_an_engine_that_cannot_be_reached_is_passed_over(
    engines: tuple[FakeUpstream, FakeUpstream], start: Start
) -> None:
    trimtab = start(file=file(engines))
    async with httpx.AsyncClient(base_url=trimtab.url, timeout=20) as http:
        answer = await ask(http, "gone", "echo")
        assert (answer.status_code, answer.headers["x-trimtab-engine"]) == (200, "main")
        answer = await ask(http, "gone", "error-503")
        assert (answer.status_code, answer.headers["x-trimtab-engine"]) == (200, "spare")


@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_request_that_hung_goes_to_the_fallback_only_where_it_may_be_repeated(
    engines: tuple[FakeUpstream, FakeUpstream], start: Start, idempotent: bool
) -> None:
    trimtab = start(file=file(engines, "idempotent = true" if idempotent else ""))
    async with httpx.AsyncClient(base_url=trimtab.url, timeout=20) as http:
        answer = await ask(http, "chat", "slow-headers-30")
    assert answer.status_code == (200 if idempotent else 504)
    assert len(engines[1].posts) == int(idempotent)


async def test_the_last_ones_answer_is_the_clients(engines: tuple[FakeUpstream, FakeUpstream], start: Start) -> None:
    text = file(engines).replace('model = "echo"', "")
    trimtab = start(file=text)
    async with httpx.AsyncClient(base_url=trimtab.url, timeout=20) as http:
        answer = await ask(http, "chat", "error-503")
    assert (answer.status_code, answer.headers["x-trimtab-engine"]) == (503, "spare")
    assert answer.json()["error"]["code"] == "fake_503"


@pytest.mark.parametrize("fallback", ["main", "nobody"])
def test_a_fallback_is_another_engine(tmp_path: Any, fallback: str) -> None:
    text = f'[engine.main]\nurl = "http://x"\n[policy.a]\nfallback = ["{fallback}"]\n'
    (path := tmp_path / "t.toml").write_text(text)
    with pytest.raises(ConfigError, match="no other engine"):
        load(Flags(config=str(path)), {})
