"""What is remembered of a request, where it can be read, and for how long; and what Prometheus sees."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import threading
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from prompt_opt.core import Outcome, Policy
from serve.chat.record import Alignment, Record, Selection
from serve.store.sqlite import SqliteFile
from serve.store.sqlite_traces import SqliteTraces
from serve.store.traces import Wanted
from tests.serve.conftest import SECRETS, Served, Start, chat


async def trace(http: httpx.AsyncClient, answer: httpx.Response) -> dict[str, Any]:
    found = await http.get(f"/v1/traces/{answer.headers['x-trimtab-trace']}")
    assert found.status_code == 200, found.text
    return dict(found.json())


@pytest.mark.parametrize("stream", [False, True])
async def test_a_trace_is_there_right_after_the_answer(http: httpx.AsyncClient, stream: bool) -> None:
    answer = await http.post(
        "/v1/chat/completions", json=chat(stream=stream, stream_options={"include_usage": True}),
        headers={"x-trimtab-policy": "chat"},
    )  # fmt: skip
    told = await trace(http, answer)
    assert told["object"] == "trace"
    assert (told["policy"], told["render"], told["engine"], told["model"]) == ("chat", "chat", "main", "echo")
    assert (told["stream"], told["status"], told["error"]) == (stream, 200, None)
    assert [(s["stage"], s["status"], s["reason"]) for s in told["stages"]] == [("urial", "applied", "3")]
    assert told["usage"]["completion_tokens"] == 2
    assert 0 < told["first_byte_ms"] <= told["total_ms"] < 5000
    assert abs(told["created"] - time.time()) < 10
    assert "before" not in told
    assert "hello" not in str(told)


async def test_what_went_wrong_is_in_the_trace(http: httpx.AsyncClient) -> None:
    for model, stream, status, word in (
        ("error-429", False, 429, "engine answered 429"), ("die-mid-stream-2", True, 200, "broke"),
        ("error-mid-stream-2", True, 200, "sent an error"), ("close-without-done-2", True, 200, "ended before"),
    ):  # fmt: skip
        for policy in ("raw", "base"):
            body = chat(model=model, stream=stream)
            answer = await http.post("/v1/chat/completions", json=body, headers={"x-trimtab-policy": policy})
            told = await trace(http, answer)
            assert told["status"] == status
            assert "made up" not in told["error"]  # an engine's own words may quote a prompt
            assert word in told["error"] or (policy == "base" and "before it was complete" in told["error"])


async def test_relayed_calls_have_traces_that_say_what_was_not_done(http: httpx.AsyncClient) -> None:
    answer = await http.post(
        "/v1/embeddings", json={"model": "echo", "input": "x"}, headers={"x-trimtab-policy": "chat"}
    )
    assert answer.headers["x-trimtab-applied"] == "urial=skipped(not a chat)"
    told = await trace(http, answer)
    assert (told["path"], told["usage"]["prompt_tokens"]) == ("/v1/embeddings", 1)


async def test_content_is_kept_only_where_it_is_turned_on(http: httpx.AsyncClient, keyed: Served) -> None:
    body = chat("a secret wish", trimtab={"policy": "base", "explain": True})
    told = await trace(http, await http.post("/v1/chat/completions", json=body))
    assert told["before"] == [{"role": "user", "content": "a secret wish"}]
    assert "a secret wish" in told["after"]
    assert told["after"] == "".join(span["text"] for span in told["spans"])
    del body["trimtab"]["explain"]
    assert "wish" not in str(await trace(http, await http.post("/v1/chat/completions", json=body)))
    headers = {"authorization": f"Bearer {SECRETS['guest']}"}  # trace_content is on there
    async with httpx.AsyncClient(verify=False, base_url=keyed.url, headers=headers) as other:
        answer = await other.post("/v1/chat/completions", json=chat("another wish"))
        assert "another wish" in str((await trace(other, answer))["after"])


async def test_an_unknown_trace_is_a_404_and_holds_nobody_up(http: httpx.AsyncClient) -> None:
    async def ask(name: str) -> httpx.Response:
        return await http.get(f"/v1/traces/{name}")

    started = time.monotonic()
    answers = await asyncio.gather(*(ask(f"none-{i}") for i in range(40)))
    assert {a.status_code for a in answers} == {404}
    assert {a.json()["error"]["code"] for a in answers} == {"trace_not_found"}
    assert time.monotonic() - started < 15  # one after the other it would be 25


async def test_any_worker_gives_any_trace_and_all_metrics(start: Start) -> None:
    served = start("--workers", "2")
    assert len(served.workers()) == 2
    async with httpx.AsyncClient(
        verify=False, base_url=served.url, timeout=60, headers={"connection": "close"}
    ) as http:
        for _ in range(10):
            answer = await http.post("/v1/chat/completions", json=chat(), headers={"x-trimtab-policy": "chat"})
            assert (await trace(http, answer))["policy"] == "chat"
        line = 'trimtab_requests_total{path="/v1/chat/completions",policy="chat",status="200"} 10.0'
        async with asyncio.timeout(60):  # a worker tells the others its counts once a second
            while line not in (await http.get("/metrics")).text:
                await asyncio.sleep(0.05)
        for _ in range(4):
            assert line in (await http.get("/metrics")).text


async def test_metrics_count_what_happened(http: httpx.AsyncClient) -> None:
    async def count(pattern: str) -> float:
        lines = (await http.get("/metrics")).text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.match(pattern, line))

    patterns = [
        r'trimtab_requests_total\{path="/v1/chat/completions",policy="base",status="200"\}',
        r'trimtab_requests_total\{path="/v1/chat/completions",policy="base",status="400"\}',
        r'trimtab_stage_outcomes_total\{stage="urial",status="applied"\}',
        r'trimtab_stage_seconds_count\{stage="urial"\}',
        r'trimtab_first_byte_seconds_count\{policy="base"\}',
        r'trimtab_tokens_total\{kind="completion",policy="base"\}',
        r'trimtab_upstream_errors_total\{engine="dead",error="Refused"\}',
    ]
    before = [await count(pattern) for pattern in patterns]
    await http.post("/v1/chat/completions", json=chat(), headers={"x-trimtab-policy": "base"})
    await http.post("/v1/chat/completions", json=chat(tools=[{}]), headers={"x-trimtab-policy": "base"})
    await http.post("/v1/chat/completions", json=chat(), headers={"x-trimtab-policy": "dead"})
    after = [await count(pattern) for pattern in patterns]
    grown = [b - a for a, b in zip(before, after, strict=True)]
    assert grown[:2] == [1, 1]
    assert grown[2] >= 1
    assert grown[3] >= 1
    assert grown[4:] == [1, grown[5], 1]
    assert grown[5] > 0


async def test_no_client_can_make_a_new_series(http: httpx.AsyncClient) -> None:
    async def series() -> set[str]:
        return {line.rsplit(" ", 1)[0] for line in (await http.get("/metrics")).text.splitlines() if line[0] != "#"}

    for i in (0, 1):
        if i:
            before = await series()
        for path in (f"/v1/none/{i}", f"/v1/models/none-{i}"):
            await http.post(path)
        body = chat(model=f"none-{i}", user=f"u{i}")
        await http.post("/v1/chat/completions", json=body, headers={"x-trimtab-policy": f"none-{i}"})
        await http.post("/v1/chat/completions", json=body)
        await http.post("/v1/embeddings", json={"model": f"none-{i}", "input": "x"})
    assert await series() == before


# ---------------------------------------------------------------- in one process


async def test_traces_expire_and_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, late = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: now() + late[0])
    traces = SqliteTraces(tmp_path, ttl_s=60)
    traces.put("a", "t", {"x": 1})
    assert await traces.find("a", "t") == {"x": 1}
    assert await traces.find("a", "other") is None
    late[0] = 61
    assert await traces.find("a", "t") is None
    traces.close()
    again = SqliteTraces(tmp_path, ttl_s=60)  # sweeps with its first write
    again.put("b", "t", {})
    assert await again.find("b", "t") == {}
    again.close()
    with sqlite3.connect(tmp_path / "traces.sqlite3") as connection:
        assert connection.execute("SELECT id FROM trace").fetchall() == [("b",)]
    connection.close()


async def test_a_disk_that_fails_loses_traces_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    traces = SqliteTraces(tmp_path, ttl_s=60)
    with sqlite3.connect(tmp_path / "traces.sqlite3") as connection:
        connection.execute("ALTER TABLE trace RENAME TO away")
    traces.put("a", "t", {})
    while not traces.dropped:
        await asyncio.sleep(0.02)
    with connection:
        connection.execute("ALTER TABLE away RENAME TO trace")
    connection.close()
    traces.put("b", "t", {})
    assert await traces.find("b", "t") == {}
    assert "1 traces lost" in caplog.text
    traces.close()


def test_no_reason_can_leave_its_header() -> None:
    nasty = 'a\r\nset-cookie: x=y\r\n\r\n<html>\u2028é\x00,")('
    record = Record(
        "/x",
        "id",
        selection=Selection(Policy("p"), "main", "m"),
        alignment=Alignment((Outcome("urial", "failed", nasty), Outcome("bpo", "skipped", "x" * 9999))),
    )
    lines = record.lines().removesuffix(b"\r\n").split(b"\r\n")
    for line in lines:
        assert re.fullmatch(rb"[a-z-]+: [ -~]{0,2048}", line)
    assert lines[0] == b"x-trimtab-policy: p"
    assert b"x-trimtab-policy" not in Record("/x", "id").lines()


# ---------------------------------------------------------------- the list


async def listed(http: httpx.AsyncClient, **asked: Any) -> list[dict[str, Any]]:
    answer = await http.get("/v1/traces", params=asked)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["data"])


async def test_recent_traces_are_listed_newest_first_and_filtered(start: Start) -> None:
    served = start()
    async with httpx.AsyncClient(base_url=served.url, timeout=60) as http:
        for policy, model in (("chat", "echo"), ("raw", "echo"), ("chat", "error-429"), ("base", "echo")):
            answer = await http.post(
                "/v1/chat/completions", json=chat(model=model), headers={"x-trimtab-policy": policy}
            )
            last = await trace(http, answer)
        rows = await listed(http)
        assert [row["policy"] for row in rows] == ["base", "chat", "raw", "chat"]
        assert rows[0]["id"] == last["id"]
        assert rows[0]["stages"] == [{"stage": "urial", "status": "applied", "reason": "3"}]
        assert (rows[1]["status"], rows[1]["error"]) == (429, "engine answered 429")
        assert "spans" not in rows[0]
        assert [row["policy"] for row in await listed(http, outcome="none")] == ["raw"]
        assert [row["policy"] for row in await listed(http, outcome="applied")] == ["base", "chat", "chat"]
        assert [row["status"] for row in await listed(http, outcome="error")] == [429]
        assert [row["status"] for row in await listed(http, policy="chat", outcome="applied")] == [429, 200]
        assert await listed(http, key="house") == []
        for wrong in ({"outcome": "best"}, {"after": "x-y"}):
            assert (await http.get("/v1/traces", params=wrong)).status_code == 400


async def test_a_list_is_its_tenants_only_and_needs_the_right(keyed: Served) -> None:
    async def of(name: str) -> httpx.Response:
        async with httpx.AsyncClient(base_url=keyed.url, headers={"authorization": f"Bearer {SECRETS[name]}"}) as http:
            if name != "bare":
                await trace(http, await http.post("/v1/chat/completions", json=chat(f"by {name}")))
            return await http.get("/v1/traces")

    assert (await of("bare")).status_code == 403
    assert {row["key"] for row in (await of("house")).json()["data"]} == {"house"}
    assert {row["key"] for row in (await of("guest")).json()["data"]} == {"guest"}


async def test_pages_of_traces_follow_each_other(tmp_path: Path) -> None:
    traces = SqliteTraces(tmp_path, ttl_s=60)
    for i in range(9):
        traces.put(f"t{i}", "t", {"id": f"t{i}", "policy": "even" if i % 2 == 0 else "odd"})
    assert await traces.find("t8", "t") is not None
    seen, after, pages = [], "", 0
    while pages == 0 or after:
        rows, after = await traces.recent("t", Wanted(policy="odd"), after=after, limit=3)
        seen += [row.id for row in rows]
        pages += 1
    assert seen == ["t7", "t5", "t3", "t1"]
    assert (await traces.recent("other"))[0] == []
    traces.close()


async def test_traces_of_an_older_server_are_kept(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "traces.sqlite3") as old:
        old.execute(
            "CREATE TABLE trace (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, expires REAL NOT NULL, body BLOB NOT NULL)"
        )
        old.execute("INSERT INTO trace VALUES ('a', 't', ?, ?)", (time.time() + 60, b'{"x": 1}'))
    old.close()
    traces = SqliteTraces(tmp_path, ttl_s=60)
    traces.put("b", "t", {"id": "b"})
    assert await traces.find("b", "t") == {"id": "b"}
    assert await traces.find("a", "t") == {"x": 1}
    assert [row.id for row in (await traces.recent("t"))[0]] == ["b"]
    traces.close()


async def test_a_filter_that_matches_few_looks_at_a_bounded_number(tmp_path: Path) -> None:
    traces = SqliteTraces(tmp_path, ttl_s=60)
    with sqlite3.connect(tmp_path / "traces.sqlite3") as connection:
        connection.executemany(
            "INSERT INTO trace (id, tenant, expires, body, ended, policy, key, outcome) "
            "VALUES (?, 't', ?, ?, ?, ?, '', '')",
            [
                (f"{i:05}", time.time() + 60, b'{"id": "x"}', float(i), "rare" if i == 0 else "often")
                for i in range(20_001)
            ],
        )
    connection.close()
    rows, after = await traces.recent("t", Wanted(policy="rare"))
    assert rows == []
    assert after
    rows, after = await traces.recent("t", Wanted(policy="rare"), after=after)
    assert (len(rows), after) == (1, "")
    traces.close()


def test_a_worker_waits_for_another_that_makes_the_same_new_file(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "traces.sqlite3", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")  # holds the file as a worker does that is just turning it into a WAL
    letting_go = threading.Timer(0.3, other.close)
    letting_go.start()
    traces = SqliteTraces(tmp_path, 60)
    letting_go.join()
    traces.close()


async def test_traces_are_filtered_by_first_words_model_day_and_time(tmp_path: Path) -> None:
    traces = SqliteTraces(tmp_path, ttl_s=60)
    for ident, words, model, ms in (("a", "Where may I SWIM?", "m1", 5.0), ("b", "x" * 500, "m2", 900.0)):
        before = [{"role": "system", "content": "swim"}, {"role": "user", "content": words}]
        traces.put(ident, "t", {"id": ident, "policy": "p", "model": model, "total_ms": ms, "before": before})
    assert await traces.find("b", "t") is not None
    wanted = [
        Wanted(text="may i swim"), Wanted(model="m1"), Wanted(slower_ms=100), Wanted(since=time.time() + 9),
        Wanted(until=time.time() - 9),
    ]  # fmt: skip
    found = ["".join(sorted(row.id for row in (await traces.recent("t", it))[0])) for it in wanted]
    assert found == ["a", "a", "b", "", ""]
    assert [row.opening for row in (await traces.recent("t", Wanted(model="m1")))[0]] == ["Where may I SWIM?"]
    ((row,), other) = await traces.usage("t", 0.0), await traces.usage("other", 0.0)
    assert (row.requests, row.policy, row.failed, row.total_ms, other) == (2, "p", False, 905.0, [])
    traces.close()


@pytest.mark.parametrize("asked", [{"until": "9999-12-31"}, {"since": "yesterday"}])
def test_a_day_that_no_calendar_has_is_refused_by_name(served: Served, asked: dict[str, str]) -> None:
    answer = httpx.get(f"{served.url}/v1/traces", params=asked, timeout=60)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, *asked)


async def test_all_traces_are_read_once_each_in_the_order_of_storing(tmp_path: Path) -> None:
    traces = SqliteTraces(tmp_path, ttl_s=60)
    for i in range(450):
        traces.put(f"t{i}", f"tenant-{i % 2}", {"id": f"t{i}"})
    assert await traces.find("t449", "tenant-1") is not None
    assert [trace["id"] for _, trace in traces.all()] == [f"t{i}" for i in range(450)]
    assert list(traces.all(since=time.time() + 9)) == []
    traces.close()


def test_an_erasure_fails_while_a_reader_keeps_deleted_rows_in_the_log(tmp_path: Path) -> None:
    def schema(connection: sqlite3.Connection) -> None:
        connection.executescript("CREATE TABLE t (x); INSERT INTO t VALUES ('a secret')")

    def delete(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA busy_timeout=0")
        connection.execute("DELETE FROM t")

    file = SqliteFile(tmp_path / "it.sqlite3", schema, "FULL")
    with closing(file.connect()) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT x FROM t").fetchall() == [("a secret",)]
        with pytest.raises(sqlite3.OperationalError, match="still holds deleted rows"):
            file.erase(delete)
    file.erase(delete)
    assert not any(b"a secret" in path.read_bytes() for path in tmp_path.iterdir())


def test_batches_of_any_size_need_few_statements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite keeps what it has prepared, and a statement for each number of rows is a leak of megabytes."""
    seen: set[str] = set()

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            seen.add(sql)
            return super().execute(sql, *values)

    monkeypatch.setattr("serve.store.sqlite.sqlite3.connect", partial(sqlite3.connect, factory=Connection))
    monkeypatch.setattr("serve.store.sqlite_traces._BATCH_S", 0.001)
    traces = SqliteTraces(tmp_path, 60)
    sizes = (*range(1, 40), 127, 128, 129, 300)
    deadline = time.monotonic() + 90
    for size in sizes:
        for row in range(size):
            traces.put(f"{size}-{row}", "t", {"model": "m"})
        while traces._queue:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    with closing(sqlite3.connect(tmp_path / "traces.sqlite3")) as file:
        while file.execute("SELECT count(*) FROM trace").fetchone() != (sum(sizes),):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    traces.close()
    assert len([sql for sql in seen if sql.startswith("INSERT")]) <= 8
