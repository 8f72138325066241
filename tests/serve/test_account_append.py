"""Appending to the account: durable, over several processes, in one chain, and whole after a kill."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from serve.config import Flags
from serve.configure.reader import load
from serve.store.account import AccountError
from serve.store.account.chain import GENESIS, following, parse
from serve.store.account.checkpoint import Signer, signed_by
from serve.store.account.journal import FileAccount
from serve.store.account.segment import segments
from serve.store.account.writer import Writer, encoded
from serve.store.place import open_account

APPEND = """
import sys
from pathlib import Path
from serve.store.account.writer import Writer, encoded
folder, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
writer = Writer(folder, folder.with_name("account.key"), segment_bytes=20_000)
for i in range(count):
    writer.write([encoded("open", {"id": f"{name}-{i}"})])
    print(i, flush=True)
"""


def writer(tmp_path: Path, **settings: object) -> Writer:
    return Writer(tmp_path / "account", tmp_path / "account.key", **settings)  # type: ignore[arg-type]


def entries(folder: Path) -> list[dict[str, object]]:
    """All entries; fails where the chain is broken anywhere."""
    link, found = GENESIS, []
    for path in segments(folder):
        for line in path.read_bytes().splitlines():
            place, entry = parse(line)
            assert place == following(link, entry)
            link = place
            found.append(msgspec.json.decode(entry))
    return found


def appending(folder: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", APPEND, str(folder), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_an_appended_change_is_in_the_file_with_its_number_and_hash(tmp_path: Path) -> None:
    account = FileAccount(writer(tmp_path), 0.05)
    link = account.append("change", {"change": "c1", "step": "approved"})
    [first, change, checkpoint] = entries(tmp_path / "account")
    assert first["kind"] == "begin"
    assert (change["kind"], change["change"], link.n) == ("change", "c1", 2)
    assert (checkpoint["upto"], checkpoint["head"]) == (2, link.hash.hex())
    assert signed_by(checkpoint, Signer.open(tmp_path / "account.key").public)


def test_the_account_of_a_configuration_lies_in_its_state_folder(tmp_path: Path) -> None:
    account = open_account(load(Flags(state_dir=str(tmp_path / "state"))))
    account.append("change", {"change": "c1"})
    assert [entry["kind"] for entry in entries(tmp_path / "state" / "account")] == ["begin", "change", "checkpoint"]
    assert (tmp_path / "state" / "account.key").stat().st_mode & 0o777 == 0o600


def test_a_field_that_the_account_sets_cannot_be_given(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'at'"):
        FileAccount(writer(tmp_path), 0.05).append("change", {"at": 1})


def test_four_processes_write_one_chain_over_several_segments(tmp_path: Path) -> None:
    folder = tmp_path / "account"
    writers = [appending(folder, f"w{i}", 60) for i in range(4)]
    for process in writers:
        process.communicate(timeout=60)
        assert process.returncode == 0
    written = [entry["id"] for entry in entries(folder) if entry["kind"] == "open"]
    assert sorted(written) == sorted(f"w{i}-{j}" for i in range(4) for j in range(60))
    assert len(segments(folder)) > 1


def test_what_append_returned_for_survives_kill_9(tmp_path: Path) -> None:
    folder = tmp_path / "account"
    for round_ in range(3):
        process = appending(folder, f"r{round_}", 10_000)
        assert process.stdout is not None
        acknowledged = [process.stdout.readline() for _ in range(20 + round_)]
        os.kill(process.pid, signal.SIGKILL)
        acknowledged += process.communicate(timeout=30)[0].splitlines()
        there = {entry.get("id") for entry in entries(folder)}
        assert {f"r{round_}-{int(i)}" for i in acknowledged} <= there


@pytest.mark.parametrize("torn", [b'{"n":4,"hash":"00', b"\0" * 5000, b'\0\0\0\n{"n":9}\n'])
def test_a_torn_end_is_set_aside_and_said(tmp_path: Path, torn: bytes) -> None:
    folder = tmp_path / "account"
    writer(tmp_path).write([encoded("open", {"id": "a"})])
    [segment] = segments(folder)
    with segment.open("ab") as file:
        file.write(torn)
    writer(tmp_path).write([encoded("open", {"id": "b"})])
    said = next(entry for entry in entries(folder) if entry["kind"] == "torn")
    assert said["bytes"] == len(torn)
    assert (folder / str(said["file"])).read_bytes() == torn
    assert [entry["id"] for entry in entries(folder) if entry["kind"] == "open"] == ["a", "b"]


def test_a_segment_killed_before_its_first_line_is_started_again(tmp_path: Path) -> None:
    folder = tmp_path / "account"
    writer(tmp_path, segment_bytes=1).write([encoded("open", {"id": "a"})])
    (folder / f"{len(entries(folder)) + 1:012d}.jsonl").touch()
    writer(tmp_path).write([encoded("open", {"id": "b"})])
    assert [entry["id"] for entry in entries(folder) if entry["kind"] == "open"] == ["a", "b"]


def test_a_full_disk_leaves_whole_lines_and_the_account_goes_on_when_there_is_room(tmp_path: Path) -> None:
    account = writer(tmp_path)
    account.write([encoded("open", {"id": "a"})])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(OSError, match="too large"):
            account.write([encoded("open", {"id": "b" * 2000})])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    account.write([encoded("open", {"id": "c"})])
    assert [entry["id"] for entry in entries(tmp_path / "account") if entry["kind"] == "open"] == ["a", "c"]


def lose(folder: Path) -> None:
    for segment in segments(folder):
        segment.unlink()


def test_a_lost_account_is_not_begun_anew_unless_the_setting_says_so(tmp_path: Path) -> None:
    account = writer(tmp_path)
    account.write([encoded("open", {"id": "a"})])
    [begun, *_] = entries(tmp_path / "account")
    lose(tmp_path / "account")
    for it in (account, writer(tmp_path)):
        with pytest.raises(AccountError, match="lost its segments"):
            it.write([encoded("open", {"id": "b"})])
    writer(tmp_path, lost="begin").write([encoded("open", {"id": "c"})])
    assert entries(tmp_path / "account")[0]["after"] == begun["chain"]


def test_another_key_cannot_go_on_with_an_account(tmp_path: Path) -> None:
    writer(tmp_path).write([encoded("open", {"id": "a"})])
    (tmp_path / "account.key").unlink()
    with pytest.raises(AccountError, match=r"account\.key is missing"):
        writer(tmp_path)
    Signer.open(tmp_path / "account.key", make=True)
    with pytest.raises(AccountError, match="another key"):
        writer(tmp_path).write([encoded("open", {"id": "b"})])


async def test_queued_entries_are_on_disk_when_written_returns(tmp_path: Path) -> None:
    account = FileAccount(writer(tmp_path), 60)
    account.queue(encoded("open", {"id": "a"}))
    await asyncio.wait_for(account.written(), 60)
    assert "a" in [entry.get("id") for entry in entries(tmp_path / "account")]
    account.queue(encoded("open", {"id": "b"}))
    account.close()
    assert "b" in [entry.get("id") for entry in entries(tmp_path / "account")]


async def test_entries_wait_while_the_folder_is_away_and_are_written_when_it_is_back(tmp_path: Path) -> None:
    account = FileAccount(writer(tmp_path), 0.001, bound=2)
    account.append("change", {"change": "c1"})
    (tmp_path / "account").rename(tmp_path / "away")
    account.queue(encoded("open", {"id": "a"}))
    with pytest.raises(AccountError, match="is lost"):
        await asyncio.wait_for(account.written(), 60)
    assert "is lost" in account.trouble
    for name in "bcd":
        account.queue(encoded("open", {"id": name}))
    (tmp_path / "away").rename(tmp_path / "account")
    await asyncio.wait_for(account.written(), 60)
    assert account.trouble == ""
    found = entries(tmp_path / "account")
    assert [entry["id"] for entry in found if entry["kind"] == "open"] == ["a", "b"]
    assert [entry["dropped"] for entry in found if entry["kind"] == "gap"] == [2]
    account.close()


async def test_entries_of_a_server_that_falls_silent_are_signed(tmp_path: Path) -> None:
    account = FileAccount(writer(tmp_path, checkpoint_s=0.2), 0.001)
    account.append("change", {"change": "c1"})
    account.queue(encoded("open", {"id": "a"}))
    await asyncio.wait_for(account.written(), 60)
    async with asyncio.timeout(60):
        while entries(tmp_path / "account")[-1]["kind"] != "checkpoint":
            await asyncio.sleep(0.01)
    account.close()
