"""A request that works raw does not fail because of us: our part changes its form, or the policy says it may go."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serve.conftest import in_process
from tests.upstream import FakeUpstream

CONFIG = """
[server]
max_messages = 20
[engine.main]
url = "{url}"
[policy.safe]
stages = ["urial"]
render = "chat"
[policy.firm]
stages = ["urial"]
render = "chat"
on_error = "fail"
[policy.base]
stages = ["urial"]
render = "base"
"""
PATH = "/v1/chat/completions"
USER = {"role": "user", "content": "hello there"}
TURNS = [USER, {"role": "assistant", "content": "hi"}, USER]


class Asker:
    def __init__(self, http: httpx.AsyncClient, upstream: FakeUpstream) -> None:
        self.http, self.upstream = http, upstream

    async def ask(self, policy: str, messages: Any, model: str = "echo") -> httpx.Response:
        self.before = len(self.upstream.requests)
        body = {"model": model, "messages": messages}
        return await self.http.post(PATH, json=body, headers={"x-trimtab-policy": policy})

    @property
    def sent(self) -> list[Any]:
        """The messages of each request that the last question led to."""
        return [r.json["messages"] for r in self.upstream.requests[self.before :] if r.method == "POST"]


@pytest.fixture
async def it(upstream: FakeUpstream, tmp_path: Path) -> AsyncIterator[Asker]:
    async with (
        in_process(CONFIG.format(url=upstream.url), tmp_path) as url,
        httpx.AsyncClient(verify=False, base_url=url, timeout=10) as http,
    ):
        yield Asker(http, upstream)


@pytest.mark.parametrize("messages", [[USER], TURNS, [{"role": "user", "content": [{"type": "text", "text": "a"}]}]])
@pytest.mark.parametrize("policy", ["safe", "firm"])
async def test_a_template_without_a_system_role_gets_the_text_in_the_first_turn(
    it: Asker, policy: str, messages: Any
) -> None:
    answer = await it.ask(policy, messages, "no-system")
    assert (answer.status_code, answer.headers["x-trimtab-applied"]) == (200, "urial=applied(3)")
    usual, folded = it.sent
    assert folded[0]["role"] == "user"
    assert folded[0]["content"] == f"{usual[0]['content']}\n\n{usual[1]['content']}"
    assert folded[1:] == usual[2:]
    trace = (await it.http.get(f"/v1/traces/{answer.headers['x-trimtab-trace']}")).json()
    assert [note for note in trace["notes"] if note.startswith("form: system text in the first user turn")]
    again = await it.ask(policy, messages, "no-system")
    assert again.status_code == 200
    assert it.sent == [folded]  # learned


async def test_what_one_model_wants_is_not_done_to_another(it: Asker) -> None:
    await it.ask("safe", [USER], "no-system-a")
    await it.ask("safe", [USER], "echo")
    assert it.sent[0][0]["role"] == "system"


async def test_our_assistant_turns_have_reasoning_where_the_engine_wants_it_on_each(it: Asker) -> None:
    assert (await it.ask("safe", [USER], "wants-reasoning")).status_code == 200
    assert all(m["reasoning_content"] == "" for m in it.sent[-1] if m["role"] == "assistant")
    # The client's own turn is the client's: without ours it is refused just so.
    raw, aligned = [await it.ask(policy, TURNS, "wants-reasoning") for policy in ("raw", "safe")]
    assert (raw.status_code, aligned.status_code) == (400, 400)
    assert aligned.json() == raw.json()


async def test_a_refusal_without_a_reason_is_answered_without_our_part(it: Asker) -> None:
    answer = await it.ask("safe", TURNS, "plain-3")
    assert (answer.status_code, answer.headers["x-trimtab-applied"]) == (200, "urial=skipped(refused)")
    assert it.sent[-1] == TURNS


async def test_unless_the_policy_must_hold(it: Asker) -> None:
    answer = await it.ask("firm", TURNS, "plain-3")
    assert answer.status_code == 400
    assert all(len(messages) > len(TURNS) for messages in it.sent)
    answer = await it.ask("firm", [{"role": "user", "content": "x" * 300}], "context-400")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "policy_not_applicable")
    assert len(it.sent) == 1
    answer = await it.ask("safe", [{"role": "user", "content": "x" * 300}], "context-400")
    assert (answer.status_code, answer.headers["x-trimtab-applied"]) == (200, "urial=skipped(context)")


ODD: dict[str, Any] = {
    "list of strings": [{"role": "user", "content": ["hello", "world"]}],
    "bare parts": [{"role": "user", "content": [{"image_url": "http://x"}, {"text": "t"}]}],
    "number": [{"role": "user", "content": 5}],
    "object": [{"role": "tool", "tool_call_id": "1", "content": {"a": 1}}, USER],
    "no role": [{"content": "x"}, USER],
    "images beside": [{"role": "user", "content": "x", "images": ["aGk="]}],
    "thinking part": [
        USER,
        {"role": "assistant", "content": [{"type": "thinking", "thinking": [{"text": "h"}]}]},
        USER,
    ],
    "refusal part": [USER, {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, USER],
    "system of parts": [{"role": "system", "content": ["a", {"type": "text", "text": "b"}]}, USER],
    "many": [{"role": ("user", "assistant")[i % 2], "content": str(i)} for i in range(151)],
}


@pytest.mark.parametrize("name", ODD)
async def test_whatever_an_engine_takes_raw_it_takes_under_a_policy(
    it: Asker, upstream: FakeUpstream, name: str
) -> None:
    messages = ODD[name]
    upstream.scripts["taker"] = ["fine"]
    answer = await it.ask("safe", messages, "taker")
    assert (answer.status_code, answer.headers["x-trimtab-applied"]) == (200, "urial=applied(3)"), answer.text
    own = [m for m in messages if not isinstance(m, dict) or m.get("role") != "system"]
    assert [m for m in it.sent[-1] if m in own] == own


async def test_a_base_model_is_told_of_all_messages_or_none(it: Asker) -> None:
    answer = await it.ask("base", ODD["many"])
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")
    assert not it.sent


async def test_odd_bytes_reach_the_engine_as_they_are(it: Asker, upstream: FakeUpstream) -> None:
    body = b'{"model":"echo","messages":[{"role":"user","content":["a" , "\\u00e9"]},{"role":"user","content":"b"}]}'
    headers = {"x-trimtab-policy": "safe", "content-type": "application/json"}
    await it.http.post(PATH, content=body, headers=headers)
    assert b'{"role":"user","content":["a" , "\\u00e9"]}' in upstream.requests[-1].body
    assert json.loads(upstream.requests[-1].body)["messages"][-1] == {"role": "user", "content": "b"}
