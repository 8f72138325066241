"""Requests in the account: an entry before anything is sent, one when the answer has ended, and nothing readable."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from serve.store.account.chain import BadLine, parse
from serve.store.account.people import People
from serve.store.account.verification import lines, verify
from tests.serve.conftest import Served, Start, chat

RECORD = '[account]\nrecord = "requests"\nflush_ms = 20\n'


def account(served: Served) -> Path:
    return state(served) / "account"


def state(served: Served) -> Path:
    return Path(msgspec.toml.decode(served.config.read_bytes())["state_dir"])


def entries(served: Served) -> list[dict[str, Any]]:
    found = []
    for line in lines(account(served)):
        try:
            found.append(msgspec.json.decode(parse(line)[1]))
        except BadLine:  # a line that is being written
            break
    return found


def until(served: Served, ident: str, kind: str = "close") -> list[dict[str, Any]]:
    """The entries of a request, once the last of them is there."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        mine = [entry for entry in entries(served) if entry.get("id") == ident]
        if kind in [entry["kind"] for entry in mine]:
            return mine
        time.sleep(0.01)
    raise AssertionError(f"request {ident} has no entry {kind!r}")


def salt(served: Served, name: str) -> bytes:
    person = People(state(served)).find("", name)
    assert person is not None
    return person.salt


def hmac_of(key: bytes, text: bytes) -> str:
    return hmac.digest(key, text, "sha256").hex()


@pytest.fixture(scope="module")
def served(start: Start) -> Served:
    """A server that records requests."""
    return start(more=RECORD)


def test_a_request_has_two_entries_with_what_was_sent_and_received(served: Served) -> None:
    body = {**chat("hello"), "user": "ann"}
    reply = httpx.post(f"{served.url}/v1/chat/completions", json=body, headers={"x-trimtab-policy": "chat"})
    opened, closed = until(served, reply.headers["x-trimtab-trace"])
    policies = {row["id"]: row for row in httpx.get(f"{served.url}/v1/policies").json()["data"]}
    assert (opened["policy"], opened["digest"]) == ("chat", policies["chat"]["digest"])
    assert (opened["engine"], opened["path"], opened["of"]) == ("main", "/v1/chat/completions", "messages")
    assert (closed["status"], closed["finish"], closed["applied"]) == (200, "complete", "urial=applied(3)")
    assert closed["answer"] == hmac_of(salt(served, "ann"), reply.content)


def test_the_hash_of_the_prompt_is_that_of_the_traces_messages(served: Served) -> None:
    body = {**chat("hello"), "trimtab": {"explain": True}, "user": "ann"}
    reply = httpx.post(f"{served.url}/v1/chat/completions", json=body, headers={"x-trimtab-policy": "chat"})
    ident = reply.headers["x-trimtab-trace"]
    opened, closed = until(served, ident)
    trace = msgspec.json.decode(httpx.get(f"{served.url}/v1/traces/{ident}").content, type=dict[str, msgspec.Raw])
    assert opened["prompt"] == hmac_of(salt(served, "ann"), bytes(trace["after"]))
    assert closed["text"] == hmac_of(salt(served, "ann"), msgspec.json.decode(trace["answer"]).encode())


def test_a_relayed_request_has_the_hash_of_its_body(served: Served) -> None:
    sent = json.dumps({**chat("as it is"), "user": "bob"}).encode()
    headers = {"x-trimtab-policy": "raw", "content-type": "application/json"}
    reply = httpx.post(f"{served.url}/v1/chat/completions", content=sent, headers=headers)
    opened, closed = until(served, reply.headers["x-trimtab-trace"])
    assert (opened["of"], opened["prompt"]) == ("body", hmac_of(salt(served, "bob"), sent))
    assert closed["answer"] == hmac_of(salt(served, "bob"), reply.content)


def test_a_streams_answer_is_hashed_as_the_client_received_it(served: Served) -> None:
    url, headers = f"{served.url}/v1/chat/completions", {"x-trimtab-policy": "base"}
    with httpx.stream("POST", url, json={**chat("hello"), "stream": True, "user": "ann"}, headers=headers) as reply:
        received = reply.read()
    opened, closed = until(served, reply.headers["x-trimtab-trace"])
    assert opened["of"] == "text"
    assert closed["answer"] == hmac_of(salt(served, "ann"), received)


def test_whom_a_request_names_and_what_it_says_is_nowhere_in_the_log(served: Served) -> None:
    body = {**chat("a very private matter"), "user": "ann@example.com"}
    reply = httpx.post(f"{served.url}/v1/chat/completions", json=body)
    until(served, reply.headers["x-trimtab-trace"])
    log = b"".join(lines(account(served)))
    assert b"ann@example.com" not in log
    assert b"private" not in log


def test_a_client_that_leaves_closes_its_request(served: Served) -> None:
    url = f"{served.url}/v1/chat/completions"
    with httpx.stream("POST", url, json={**chat("hi", model="slow-stream-1000-20"), "stream": True}) as reply:
        next(reply.iter_raw())
        ident = reply.headers["x-trimtab-trace"]
    assert until(served, ident)[-1]["finish"] == "client left"


def test_a_request_whose_engine_is_dead_is_closed_as_refused(served: Served) -> None:
    reply = httpx.post(f"{served.url}/v1/chat/completions", json=chat("hi"), headers={"x-trimtab-policy": "dead"})
    opened, closed = until(served, reply.headers["x-trimtab-trace"])
    assert (opened["engine"], closed["status"], closed["finish"]) == ("dead", 502, "refused")


def test_embeddings_are_recorded_too(served: Served) -> None:
    reply = httpx.post(f"{served.url}/v1/embeddings", json={"model": "echo", "input": "x"})
    assert until(served, reply.headers["x-trimtab-trace"])[0]["path"] == "/v1/embeddings"


def test_a_server_that_was_killed_leaves_a_whole_log_and_says_what_is_unclosed(start: Start) -> None:
    served = start(more=RECORD)
    url = f"{served.url}/v1/chat/completions"
    with httpx.stream("POST", url, json={**chat("hi", model="slow-stream-1000-20"), "stream": True}) as reply:
        ident = reply.headers["x-trimtab-trace"]
        until(served, ident, "open")
        served.process.kill()
        served.process.wait(60)
    verdict = verify(account(served))
    assert verdict.whole
    assert verdict.unclosed == [ident]


def test_with_sync_always_an_entry_is_on_disk_before_the_engine_is_asked_and_a_stop_writes_the_rest(
    start: Start,
) -> None:
    served = start(more=RECORD.replace("20", "60000") + 'sync = "always"\n')
    url = f"{served.url}/v1/chat/completions"
    ident = httpx.post(url, json=chat("hi")).headers["x-trimtab-trace"]
    assert [entry["kind"] for entry in entries(served) if entry.get("id") == ident] == ["open"]
    served.stop()
    kinds = [entry["kind"] for entry in entries(served) if entry["kind"] != "checkpoint"]
    assert kinds == ["begin", "start", "open", "close", "stop"]
    assert entries(served)[-1]["kind"] == "checkpoint"


def away(served: Served) -> Path:
    return account(served).rename(account(served).with_name("away"))


def refused(served: Served) -> bool:
    reply = httpx.post(f"{served.url}/v1/chat/completions", json=chat("hi"))
    return reply.status_code == 503 and reply.json()["error"]["code"] == "account_unavailable"


def eventually(condition: Any, wanted: bool) -> bool:
    deadline = time.monotonic() + 60
    while condition() is not wanted:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_without_its_account_a_server_refuses_requests_until_it_is_back(start: Start) -> None:
    served = start(more=RECORD)
    assert not refused(served)
    gone = away(served)
    assert eventually(lambda: refused(served), True)
    gone.rename(account(served))
    assert eventually(lambda: refused(served), False)
    assert any("account cannot be written" in line for line in served.said)


def test_a_server_that_may_serve_unrecorded_begins_a_new_account(start: Start) -> None:
    served = start(more=RECORD + 'on_error = "serve"\n')
    assert not refused(served)
    away(served)
    ident = httpx.post(f"{served.url}/v1/chat/completions", json=chat("hi")).headers["x-trimtab-trace"]
    until(served, ident)
    verdict = verify(account(served))
    assert verdict.whole
    assert "was lost" in " ".join(verdict.notes)


async def test_several_workers_write_one_chain(start: Start) -> None:
    served = start("--workers", "3", more=RECORD)
    async with httpx.AsyncClient(limits=httpx.Limits(max_keepalive_connections=0)) as client:
        url = f"{served.url}/v1/chat/completions"
        replies = await asyncio.gather(*(client.post(url, json=chat("hi")) for _ in range(32)))
    served.stop()
    ids = {reply.headers["x-trimtab-trace"] for reply in replies}
    verdict = verify(account(served))
    assert verdict.whole
    assert verdict.unclosed == []
    assert {entry["id"] for entry in entries(served) if entry["kind"] == "open"} == ids
    assert len({entry["worker"] for entry in entries(served) if entry["kind"] == "start"}) == 3


def test_the_salts_stand_under_hashes_of_names(served: Served) -> None:
    httpx.post(f"{served.url}/v1/chat/completions", json={**chat("hi"), "safety_identifier": "carl"})
    with closing(sqlite3.connect(state(served) / "people.sqlite3")) as connection:
        names = {row[0] for row in connection.execute("SELECT name FROM person")}
    assert hashlib.sha256(b"\0carl").hexdigest() in names
