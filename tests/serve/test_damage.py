"""A damaged store is set aside and begun anew; nothing else is lost by it, and the server goes on."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.cli.feedback import main
from serve.store.sqlite_feedback import SqliteVerdicts
from serve.store.sqlite_traces import SqliteTraces
from tests.serve.conftest import Start, chat

CHAT = {"x-trimtab-policy": "chat"}


def garbage(file: Path) -> None:
    file.write_bytes(b"this is no database" * 1000)


def torn(file: Path) -> None:
    """The header is whole, the pages are not."""
    data = bytearray(file.read_bytes())
    data[100:] = random.Random(7).randbytes(len(data) - 100)
    file.write_bytes(data)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:5000])


DAMAGES = pytest.mark.parametrize("damage", [garbage, torn, cut])


def settle(file: Path) -> None:
    """Take what is in the write-ahead log into the file, so that the damage is where it is looked for."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for rest in ("-wal", "-shm"):
        file.with_name(file.name + rest).unlink(missing_ok=True)


def aside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.damaged-*") if not path.name.endswith(("-wal", "-shm")))


@DAMAGES
def test_a_damaged_store_of_traces_is_set_aside_when_the_server_starts(tmp_path: Path, damage: Any) -> None:
    async def kept(traces: SqliteTraces, ident: str) -> bool:
        return await traces.find(ident, "t") is not None

    first = SqliteTraces(tmp_path, 60)
    for number in range(200):
        first.put(f"t{number}", "t", {"id": f"t{number}", "text": "x" * 200})
    first.close()
    file = tmp_path / "traces.sqlite3"
    settle(file)
    damage(file)
    again = SqliteTraces(tmp_path, 60)
    again.put("new", "t", {"id": "new"})
    assert asyncio.run(kept(again, "new"))
    assert not asyncio.run(kept(again, "t1")), "it was in the damaged one"
    again.close()
    assert len(aside(tmp_path)) == 1


@DAMAGES
def test_a_damaged_store_of_feedback_is_set_aside_when_it_is_used(tmp_path: Path, damage: Any) -> None:
    verdicts = SqliteVerdicts(tmp_path)
    for number in range(100):
        verdicts.put("t", "k", [str(number)], {"id": str(number), "kind": "rating", "text": "x" * 200})
    settle(tmp_path / "feedback.sqlite3")
    damage(tmp_path / "feedback.sqlite3")
    assert verdicts.page("t") == []
    verdicts.put("t", "k", ["a"], {"id": "new", "kind": "rating"})
    assert [row["id"] for row in verdicts.page("t")] == ["new"]
    assert len(aside(tmp_path)) == 1
    assert list(verdicts.all(None, "rating", 0)) == [{"id": "new", "kind": "rating"}]


def test_processes_that_find_the_damage_at_once_set_it_aside_once(tmp_path: Path) -> None:
    verdicts = SqliteVerdicts(tmp_path)
    verdicts.put("t", "k", ["a"], {"id": "a", "kind": "rating"})
    settle(tmp_path / "feedback.sqlite3")
    garbage(tmp_path / "feedback.sqlite3")
    put: Callable[[int], None] = lambda n: verdicts.put("t", "k", [str(n)], {"id": str(n), "kind": "rating"})  # noqa: E731
    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert {row["id"] for row in verdicts.page("t")} == {str(number) for number in range(8)}
    assert len(aside(tmp_path)) == 1


def test_a_store_that_is_damaged_under_a_running_server_is_begun_anew(start: Start) -> None:
    served = start()
    folder = served.config.parent / "state"

    def trace() -> httpx.Response:
        answer = httpx.post(f"{served.url}/v1/chat/completions", json=chat(), headers=CHAT)
        assert answer.status_code == 200
        return httpx.get(f"{served.url}/v1/traces/{answer.headers['x-trimtab-trace']}")

    assert trace().status_code == 200
    settle(folder / "traces.sqlite3")
    garbage(folder / "traces.sqlite3")
    assert trace().status_code == 200
    assert len(aside(folder)) == 1
    served.wait_for("traces.sqlite3 is damaged .*: set aside as traces.sqlite3.damaged-")
    (folder / "feedback.sqlite3").write_bytes(b"no database at all" * 100)
    assert httpx.get(f"{served.url}/v1/feedback").json()["data"] == []
    assert len(aside(folder)) == 2


def test_a_deleted_store_is_begun_anew(start: Start) -> None:
    served = start()
    for _ in range(2):
        answer = httpx.post(f"{served.url}/v1/chat/completions", json=chat(), headers=CHAT)
        found = httpx.get(f"{served.url}/v1/traces/{answer.headers['x-trimtab-trace']}")
        assert found.status_code == 200
        for file in (served.config.parent / "state").glob("traces.sqlite3*"):
            file.unlink()


def test_a_row_that_is_not_what_was_written_is_left_out_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    verdicts = SqliteVerdicts(tmp_path)
    for ident in ("a", "b"):
        verdicts.put("t", "k", [ident], {"id": ident, "kind": "rating", "text": f"the answer {ident} was right"})
    settle(tmp_path / "feedback.sqlite3")
    file = tmp_path / "feedback.sqlite3"
    file.write_bytes(file.read_bytes().replace(b"answer a was right", b"answer a was wrong"))
    assert [row["id"] for row in verdicts.page("t")] == ["b"]
    assert [row["id"] for row in verdicts.all(None, "rating", 0)] == ["b"]
    assert "a row is not what was written" in caplog.text


def test_rows_from_before_there_were_checksums_are_read(tmp_path: Path) -> None:
    verdicts = SqliteVerdicts(tmp_path)
    verdicts.put("t", "k", ["a"], {"id": "a", "kind": "rating"})
    with closing(sqlite3.connect(tmp_path / "feedback.sqlite3")) as db, db:
        db.execute("UPDATE verdict SET body = substr(body, 9)")
    assert verdicts.page("t") == [{"id": "a", "kind": "rating"}]


def test_an_export_says_that_rows_may_be_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verdicts = SqliteVerdicts(tmp_path)
    rated = {"rated": {"answer": "yes", "policy": "p"}, "rating": "up", "prompt": [], "created": 1}
    for ident in ("a", "b"):
        verdicts.put("tenant", "key", [ident], {"id": ident, "kind": "rating", **rated})
    settle(tmp_path / "feedback.sqlite3")
    file = tmp_path / "feedback.sqlite3"
    data = file.read_bytes()
    at = data.rindex(b"tenantkeyrating")  # in the row or its index, whichever is last: they differ then
    file.write_bytes(data[:at] + b"tenantkeyratinh" + data[at + 15 :])
    assert main(["export", "--kind", "labelled", "--out", str(tmp_path / "out"), "--state-dir", str(tmp_path)]) == 0
    assert "feedback.sqlite3 is damaged, rows may be missing" in capsys.readouterr().err
