"""What people say of answers: who may, what is kept, and that training reads what serving exports."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.store.sqlite_feedback import SqliteVerdicts
from tests.serve.conftest import SECRETS, Served, Start, chat
from tests.upstream import FakeUpstream
from trainers.data.layouts import read_rows

CONFIG = """
state_dir = "{state}"
[engine.main]
url = "{url}"
[policy.chat]
stages = ["urial"]
render = "chat"
[policy.base]
stages = ["urial"]
render = "base"
"""
KEY = """
[[key]]
id = "{name}"
sha256 = "{digest}"
tenant = "{tenant}"
rights = {rights}
"""


def keys(**tenants: str) -> str:
    rows = []
    for name, tenant in tenants.items():
        rights = ["raw", "explain", "traces"] + ["feedback"] * (name != "bare")
        digest = hashlib.sha256(SECRETS[name].encode()).hexdigest()
        rows.append(KEY.format(name=name, digest=digest, tenant=tenant, rights=json.dumps(rights)))
    return "".join(rows)


@pytest.fixture(scope="module")
def voted(start: Start, upstream: FakeUpstream) -> Served:
    """A server whose house has two tenants, one of them with a key that may not give feedback."""
    text = CONFIG + keys(house="house", guest="guest", bare="house")
    return start(file=text)


def by(served: Served, name: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=served.url, timeout=10, headers={"authorization": f"Bearer {SECRETS[name]}"})


async def ask(http: httpx.AsyncClient, policy: str, content: str = "hello there", **fields: Any) -> str:
    """The trace of an answer whose content is kept."""
    body = chat(content, trimtab={"policy": policy, "explain": True}, **fields)
    answer = await http.post("/v1/chat/completions", json=body)
    return str(answer.headers["x-trimtab-trace"])


async def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("policy", ["raw", "chat", "base"])
async def test_a_trace_that_keeps_content_keeps_the_answer(voted: Served, policy: str, stream: bool) -> None:
    async with by(voted, "house") as http:
        ident = await ask(http, policy, "one two three", stream=stream, temperature=0.25)
        trace = (await http.get(f"/v1/traces/{ident}")).json()
    assert trace["before"] == [{"role": "user", "content": "one two three"}]
    assert trace["params"] == {"temperature": 0.25}
    assert trace["key"] == "house"
    if policy == "base":  # there the engine repeats the tail of the whole prompt
        assert trace["answer"]
    else:
        assert trace["answer"] == "one two three"


async def test_a_preference_becomes_a_row_that_training_reads(voted: Served, tmp_path: Path) -> None:
    async with by(voted, "house") as http:
        better, worse = await asyncio.gather(ask(http, "chat", stream=True), ask(http, "raw", model="stream-2"))
        given = await http.post("/v1/feedback", json={"chosen": better, "rejected": worse, "comment": "kinder"})
        assert given.status_code == 200, given.text
        listed = (await http.get("/v1/feedback", params={"kind": "preference"})).json()["data"]
    assert listed[0] == given.json()
    assert (listed[0]["chosen"]["policy"], listed[0]["rejected"]["policy"]) == ("chat", "raw")
    assert (listed[0]["key"], listed[0]["comment"]) == ("house", "kinder")
    out = tmp_path / "pairs.jsonl"
    argv = ["feedback", "export", "--config", str(voted.config), "--tenant", "house", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "serve.cli.command", *argv], capture_output=True, text=True, check=True
    )
    assert "1 rows from" in done.stderr
    [row] = read_rows(out, "preference")
    assert row["prompt"] == [{"role": "user", "content": "hello there"}]
    answers = [row[side][0]["content"] for side in ("chosen", "rejected")]
    assert answers == ["hello there", "0 1 "]


async def test_thumbs_become_labels(voted: Served, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from serve.cli.feedback import main

    async with by(voted, "house") as http:
        ids = [await ask(http, "chat", text) for text in ("up goes this", "down goes that")]
        for ident, rating in zip(ids, ("up", "down"), strict=True):
            assert (await http.post("/v1/feedback", json={"trace": ident, "rating": rating})).status_code == 200
    assert main(["export", "--kind", "labelled", "--config", str(voted.config)]) == 0
    (tmp_path / "rows.jsonl").write_text(capsys.readouterr().out)
    rows = read_rows(tmp_path / "rows.jsonl", "labelled")
    assert [(row["completion"][0]["content"], row["label"]) for row in rows] == [
        ("up goes this", True),
        ("down goes that", False),
    ]


async def test_who_changes_their_mind_is_counted_once(voted: Served) -> None:
    async with by(voted, "guest") as http:
        ident, other = await ask(http, "raw"), await ask(http, "chat", model="stream-2")
        for body in (
            {"trace": ident, "rating": "up"}, {"trace": ident, "rating": "down"},
            {"chosen": ident, "rejected": other}, {"chosen": other, "rejected": ident},
        ):  # fmt: skip
            assert (await http.post("/v1/feedback", json=body)).status_code == 200
        rows = (await http.get("/v1/feedback")).json()["data"]
        assert [(row["kind"], row.get("rating")) for row in rows] == [("preference", None), ("rating", "down")]
        assert rows[0]["chosen"]["trace"] == other
        assert (await http.delete(f"/v1/feedback/{rows[1]['id']}")).json()["withdrawn"] is True
        assert await code(await http.delete(f"/v1/feedback/{rows[1]['id']}")) == (404, "feedback_not_found")
        assert (await http.get("/v1/feedback", params={"kind": "rating"})).json()["data"] == []


async def test_a_tenant_sees_its_own_only(voted: Served) -> None:
    async with by(voted, "house") as house, by(voted, "guest") as guest:
        ident = await ask(house, "raw", "a house matter")
        kept = (await house.post("/v1/feedback", json={"trace": ident, "rating": "up"})).json()
        assert await code(await guest.post("/v1/feedback", json={"trace": ident, "rating": "up"})) == (
            404, "trace_not_found",
        )  # fmt: skip
        assert "a house matter" not in (await guest.get("/v1/feedback")).text
        assert await code(await guest.delete(f"/v1/feedback/{kept['id']}")) == (404, "feedback_not_found")
        assert (await guest.get("/v1/feedback", params={"after": kept["id"]})).json()["data"] == []


async def test_feedback_is_a_right(voted: Served) -> None:
    async with by(voted, "bare") as http:
        for method, path in (("POST", "/v1/feedback"), ("GET", "/v1/feedback"), ("DELETE", "/v1/feedback/x")):
            body = {"trace": "x", "rating": "up"} if method == "POST" else None
            assert await code(await http.request(method, path, json=body)) == (403, "missing_right")
        told = (await http.get("/v1/key")).json()
    assert (told["id"], told["tenant"], told["needed"]) == ("bare", "house", True)
    assert told["rights"] == ["raw", "traces", "explain"]
    async with httpx.AsyncClient(base_url=voted.url) as http:
        assert (await http.get("/v1/feedback")).status_code == 401


async def test_pages_follow_each_other(voted: Served) -> None:
    async with by(voted, "guest") as http:
        for i in range(5):
            ident = await ask(http, "raw", f"question {i}")
            await http.post("/v1/feedback", json={"trace": ident, "rating": "up"})
        seen: list[str] = []
        after: str | None = ""
        while after is not None:
            page = (await http.get("/v1/feedback", params={"after": after, "limit": 2, "kind": "rating"})).json()
            seen += [row["prompt"][0]["content"] for row in page["data"]]
            after = page["next"]
    assert seen == [f"question {i}" for i in (4, 3, 2, 1, 0)]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, "invalid_feedback"), ({"trace": "x"}, "invalid_feedback"), ({"trace": "x", "rating": 1}, "invalid_json"),
        ({"trace": "x", "rating": "up", "chosen": "y"}, "invalid_feedback"), ({"trace": "x", "rating": "best"}, None),
        ({"chosen": "x", "rejected": "x"}, None), ([], "invalid_json"),
        ({"trace": "x", "rating": "up", "comment": "y" * 4001}, None),
    ],
)  # fmt: skip
async def test_a_wrong_body_is_refused(voted: Served, body: Any, expected: str | None) -> None:
    async with by(voted, "house") as http:
        assert await code(await http.post("/v1/feedback", json=body)) == (400, expected)


async def test_what_cannot_be_kept_is_refused_by_name(voted: Served) -> None:
    async with by(voted, "house") as http:

        async def rated(ident: str) -> tuple[int, str]:
            return await code(await http.post("/v1/feedback", json={"trace": ident, "rating": "up"}))

        assert await rated("unknown") == (404, "trace_not_found")
        bare = await http.post("/v1/chat/completions", json=chat())
        assert await rated(bare.headers["x-trimtab-trace"]) == (400, "trace_without_content")
        assert await rated(await ask(http, "raw", model="error-429")) == (400, "answer_incomplete")
        broken = await ask(http, "raw", model="die-mid-stream-2", stream=True)
        assert (await http.get(f"/v1/traces/{broken}")).json()["answer"] == "0 1 "
        assert await rated(broken) == (400, "answer_incomplete")
        tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
        assert await rated(await ask(http, "raw", model="tools", tools=[tool])) == (400, "no_answer")
        first, second = await ask(http, "raw", "one"), await ask(http, "raw", "two")
        wrong = await http.post("/v1/feedback", json={"chosen": first, "rejected": second})
        assert await code(wrong) == (400, "different_prompts")
        same = {"chosen": await ask(http, "raw", "one"), "rejected": await ask(http, "raw", "one")}
        assert await code(await http.post("/v1/feedback", json=same)) == (400, "same_answer")
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        asked = {"model": "stream-2", "messages": [{"role": "user", "content": [image]}], "trimtab": {"explain": True}}
        seen = await http.post("/v1/chat/completions", json=asked)
        assert await rated(seen.headers["x-trimtab-trace"]) == (400, "not_text")


async def test_content_that_is_too_much_is_left_out(voted: Served) -> None:
    async with by(voted, "house") as http:
        trace = (await http.get(f"/v1/traces/{await ask(http, 'raw', model='huge-1048577')}")).json()
        assert trace["notes"] == ["content left out: 1048577 characters"]
        assert "before" not in trace


def test_an_export_of_nothing_is_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from serve.cli.feedback import main

    assert main(["export", "--state-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.iterdir())
    assert main(["export", "--state-dir", str(tmp_path), "--since", "soon"]) == 2
    assert "soon" in capsys.readouterr().err


def test_verdicts_outlive_the_server(tmp_path: Path) -> None:
    SqliteVerdicts(tmp_path).put("t", "k", ["a"], {"id": "1", "kind": "rating"})
    assert SqliteVerdicts(tmp_path).page("t") == [{"id": "1", "kind": "rating"}]
    assert list(SqliteVerdicts(tmp_path).all("other", "rating", 0)) == []
