"""What the account tells, to whom; what is cut off with age; and what erasing a person leaves."""

from __future__ import annotations

import hmac
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from serve.chat.trail import Trail
from serve.cli.account import main
from serve.config import Flags
from serve.configure.reader import load
from serve.store.account.change import Change
from serve.store.account.people import People, Person
from serve.store.account.reading import backwards, changes
from serve.store.account.retention import cut
from serve.store.account.segment import segments
from serve.store.account.verification import verify
from serve.store.account.writer import Writer, encoded
from serve.store.place import open_account
from tests.serve.conftest import SECRETS, Served, Start, chat, key_table
from tests.serve.test_account_requests import RECORD, account, state, until
from tests.serve.test_changes import BASE, KEYS, RULE, House
from tests.serve.test_changes import SECRETS as CHANGERS

RIGHTS = {"house": ["raw", "traces", "account"], "guest": ["raw", "account"], "bare": ["raw"]}
KEYED = RECORD + "".join(key_table(name, SECRETS[name], rights) for name, rights in RIGHTS.items())


def ask(served: Served, body: dict[str, Any], **headers: str) -> str:
    reply = httpx.post(f"{served.url}/v1/chat/completions", json=body, headers=headers)
    ident: str = reply.headers["x-trimtab-trace"]
    until(served, ident)
    return ident


def approve(folder: Path, policy: str, digest: str) -> None:
    """What a change leaves in the account on its way into force."""
    log = open_account(load(Flags(state_dir=str(folder))))
    told = {"author": "ann", "title": "Clearer answers", "reason": "complaint 17"}
    log.append("change", msgspec.to_builtins(Change("c1", "submitted", "ann", **told)))
    log.append("change", msgspec.to_builtins(Change("c1", "approved", "bob", **told)))
    log.append("change", msgspec.to_builtins(Change("c1", "in_force", "bob", **told, policies={policy: digest})))


@pytest.fixture(scope="module")
def served(start: Start) -> Served:
    """A server that records requests."""
    return start(more=RECORD)


def test_show_tells_what_was_sent_and_who_approved_it(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["id"]: row for row in httpx.get(f"{served.url}/v1/policies").json()["data"]}
    approve(state(served), "chat", rows["chat"]["digest"])
    ident = ask(served, chat("hi"), **{"x-trimtab-policy": "chat"})
    assert main(["show", ident, "--state-dir", str(state(served))]) == 0
    told = capsys.readouterr().out
    assert "sent to engine main" in told
    assert "in force by change c1 (Clearer answers), written by ann, approved by bob on" in told
    assert "the answer was complete, status 200" in told
    assert httpx.get(f"{served.url}/v1/account/requests/{ident}").json()["story"] == told.splitlines()


def test_a_request_under_an_approved_rule_is_traced_to_whoever_approved_it(start: Start) -> None:
    keys = KEYS.replace('"approver", "principles"', '"approver", "account", "principles"', 1)
    served = start(file=BASE + RECORD + keys)
    house = House(served)
    before = house.policies()["rules"]["digest"]
    change = house.passed(RULE)
    deadline = time.monotonic() + 60
    while (now := house.policies()["rules"]["digest"]) == before:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    headers = {"authorization": f"Bearer {CHANGERS['ben']}", "x-trimtab-policy": "rules"}
    ident = ask(served, chat("May my dogs run in parks?"), **headers)
    told = house.call("ben", "GET", f"/v1/account/requests/{ident}")
    opened = told["entries"][0]
    assert opened["digest"] == now
    assert [rule[:2] for rule in opened["rules"]] == [["law", "parks"]]
    assert opened["indexes"] == {"law": 1}
    assert f"in force by change {change}" in " ".join(told["story"])
    assert "written by ada, approved by ben on" in " ".join(told["story"])


def test_a_policy_of_the_file_is_said_to_be_one(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    ident = ask(served, chat("hi"), **{"x-trimtab-policy": "base"})
    assert main(["show", ident, "--state-dir", str(state(served))]) == 0
    assert "it stands in trimtab.toml or is built in" in capsys.readouterr().out


def test_show_of_an_unknown_request_fails(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "0" * 32, "--state-dir", str(state(served))]) == 1
    assert "has no request" in capsys.readouterr().err


def test_the_timeline_is_read_page_by_page_newest_first(served: Served) -> None:
    idents = [ask(served, chat("hi")) for _ in range(3)]
    url, seen, before = f"{served.url}/v1/account", [], 0
    for _ in range(3):
        page = httpx.get(url, params={"kind": "open", "limit": 1, "before": before}).json()
        seen += [row["id"] for row in page["data"]]
        before = page["next"]
    assert seen == idents[::-1]
    assert httpx.get(url, params={"kind": "none"}).status_code == 400


def test_the_server_says_whether_its_account_is_whole(served: Served) -> None:
    ask(served, chat("hi"))
    verdict = httpx.get(f"{served.url}/v1/account/verification", timeout=60).json()
    assert verdict["whole"] is True
    assert verdict["words"][-1].startswith("only a checkpoint")


def test_nobody_can_write_to_the_account_over_http(served: Served) -> None:
    for path in ("/v1/account", "/v1/account/verification", f"/v1/account/requests/{'0' * 32}"):
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert httpx.request(method, served.url + path).status_code == 405


def test_a_tenant_sees_its_own_requests_only_and_needs_the_right(start: Start) -> None:
    served = start(more=KEYED)
    ident = ask(served, chat("hi"), authorization=f"Bearer {SECRETS['house']}")

    def get(key: str, path: str = "") -> httpx.Response:
        return httpx.get(f"{served.url}/v1/account{path}", headers={"authorization": f"Bearer {SECRETS[key]}"})

    assert {row.get("id") for row in get("house").json()["data"]} >= {ident}
    assert ident not in {row.get("id") for row in get("guest").json()["data"]}
    assert get("guest", f"/requests/{ident}").status_code == 404
    assert get("house", f"/requests/{ident}").status_code == 200
    assert get("bare").status_code == 403


def test_without_an_account_there_is_nothing_to_read(served: Served) -> None:
    folder = account(served)
    away = folder.rename(folder.with_name("away"))
    try:
        reply = httpx.get(f"{served.url}/v1/account")
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "no_account")
    finally:
        away.rename(folder)


def test_erasing_a_person_deletes_content_and_salt_and_leaves_the_chain_whole(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    body = {**chat("a secret of ann's"), "user": "ann", "trimtab": {"explain": True}}
    ident, other = ask(served, body), ask(served, {**body, "user": "bob"})
    assert httpx.get(f"{served.url}/v1/traces/{ident}").status_code == 200
    httpx.post(f"{served.url}/v1/feedback", json={"trace": ident, "rating": "up"}).raise_for_status()
    command = ["erase", "ann", "--state-dir", str(state(served))]
    assert main(command) == 0
    assert "nothing was deleted" in capsys.readouterr().out
    assert main([*command, "--yes"]) == 0
    assert "deleted: 1 traces, 1 verdicts, the salt" in capsys.readouterr().out
    assert httpx.get(f"{served.url}/v1/traces/{ident}").status_code == 404
    assert httpx.get(f"{served.url}/v1/traces/{other}").status_code == 200
    assert httpx.get(f"{served.url}/v1/feedback").json()["data"] == []
    assert People(state(served)).find("", "ann") is None
    assert People(state(served)).find("", "bob") is not None
    assert verify(account(served)).whole
    assert main([*command, "--yes"]) == 1


def test_a_person_who_comes_back_after_an_erasure_is_a_new_one(served: Served) -> None:
    first = until(served, ask(served, {**chat("hi"), "user": "eve"}))[0]["person"]
    assert main(["erase", "eve", "--yes", "--state-dir", str(state(served))]) == 0
    deadline = time.monotonic() + 60
    while until(served, ask(served, {**chat("hi"), "user": "eve"}))[0]["person"] == first:
        assert time.monotonic() < deadline


def test_a_deleted_salt_is_not_left_in_the_file(tmp_path: Path) -> None:
    people = People(tmp_path)
    salt = people.open("", "ann").salt
    people.erase("", "ann")
    assert not any(salt in file.read_bytes() for file in tmp_path.iterdir())
    assert (tmp_path / "people.sqlite3").stat().st_mode & 0o777 == 0o600


def test_old_segments_are_cut_off_with_a_proof_and_changes_are_carried_over(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "account", tmp_path / "account.key", segment_bytes=600)
    writer.write([encoded("change", {"change": "c1", "step": "approved"})])
    for i in range(8):
        writer.write([encoded("open", {"id": f"r{i}"})])
    there = len(segments(writer.folder))
    assert cut(writer, time.time() - 3600) == 0
    last = cut(writer, time.time() + 1)
    assert last > 8
    assert len(segments(writer.folder)) == 1 < there
    verdict = verify(writer.folder)
    assert verdict.whole
    assert verdict.cut == last
    assert [it["change"] for it in changes(writer.folder)] == ["c1"]
    for i in range(8):
        writer.write([encoded("open", {"id": f"s{i}"})])
    cut(writer, time.time() + 1)
    assert verify(writer.folder).whole
    assert [it["change"] for it in changes(writer.folder)] == ["c1"]


def test_a_cut_that_was_killed_half_way_verifies(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "account", tmp_path / "account.key", segment_bytes=600)
    for i in range(9):
        writer.write([encoded("open", {"id": f"r{i}"})])
    paths = segments(writer.folder)
    kept = {path: path.read_bytes() for path in paths[1:]}
    cut(writer, time.time() + 1)
    for path in paths[1:3]:
        path.write_bytes(kept[path])
    assert verify(writer.folder).whole
    cut(writer, time.time() + 1)
    assert len(segments(writer.folder)) <= 2
    assert verify(writer.folder).whole


def test_a_forged_proof_of_a_cut_is_none(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "account", tmp_path / "account.key", segment_bytes=600)
    for i in range(9):
        writer.write([encoded("open", {"id": f"r{i}"})])
    first = segments(writer.folder)[1]
    proof = {"chain": writer.head().chain, "upto": int(first.stem) - 1, "carried": [], "signature": "00" * 64}
    writer.write([encoded("cut", proof)])
    segments(writer.folder)[0].unlink()
    assert "cut" in {it.kind for it in verify(writer.folder).findings}


def test_entries_are_read_backwards_over_segments_and_blocks(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "account", tmp_path / "account.key", segment_bytes=200_000)
    for i in range(6):
        writer.write([encoded("open", {"id": f"r{i}", "text": "x" * 70_000})])
    rows = [entry["n"] for entry in backwards(writer.folder)]
    assert rows == list(range(len(rows), 0, -1))
    assert [entry["n"] for entry in backwards(writer.folder, 4)] == [3, 2, 1]


def test_the_names_of_persons_are_hashed(tmp_path: Path) -> None:
    People(tmp_path).open("t", "ann")
    with closing(sqlite3.connect(tmp_path / "people.sqlite3")) as connection:
        assert "ann" not in str(connection.execute("SELECT name FROM person").fetchall())


@pytest.mark.parametrize("size", [0, 1, 5000, 200_000])
def test_a_persons_digest_is_hmac_sha256_also_piece_by_piece(size: int) -> None:
    person, text = Person(b"s" * 32), bytes(i % 251 for i in range(size))
    wanted = hmac.digest(b"s" * 32, text, "sha256").hex()
    trail = Trail(person)
    for at in range(0, size, 999):
        trail.hear(text[at : at + 999])
    assert person.digest(text) == wanted
    assert trail.digest() == (wanted if size else "")
