"""`trimtab account`: verify, checkpoint, export, key, begin."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serve.cli.account import main
from serve.config import Flags
from serve.configure.reader import load
from serve.store.account.segment import segments
from serve.store.place import open_account


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder whose account holds two changes."""
    account = open_account(load(Flags(state_dir=str(tmp_path / "state"))))
    for i in range(2):
        account.append("change", {"change": f"c{i}", "step": "approved", "by": "ann"})
    return tmp_path / "state"


def run(state: Path, *argv: str) -> int:
    return main([argv[0], "--state-dir", str(state), *argv[1:]])


def test_verify_says_whole_and_up_to_where_it_is_proved(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(state, "verify") == 0
    said = capsys.readouterr().out
    assert "whole: proved up to entry 4 by the checkpoint of" in said
    assert "only a checkpoint kept elsewhere" in said


def test_verify_names_the_place_and_exits_with_1(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [segment] = segments(state / "account")
    segment.write_bytes(segment.read_bytes().replace(b'"by":"ann"', b'"by":"bob"', 1))
    assert run(state, "verify") == 1
    said = capsys.readouterr().out
    assert "ALTERED 000000000001.jsonl:2, entry 2" in said
    assert "NOT WHOLE" in said


def test_verify_as_json(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(state, "verify", "--json") == 0
    verdict = json.loads(capsys.readouterr().out)
    assert (verdict["whole"], verdict["last"], verdict["findings"]) == (True, 5, [])


def test_an_export_and_a_checkpoint_are_verified_on_another_machine(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export, kept, nowhere = str(tmp_path / "export.jsonl"), str(tmp_path / "kept.json"), tmp_path / "nowhere"
    assert run(state, "checkpoint", "--out", kept) == 0
    assert run(state, "export", "--out", export) == 0
    assert run(state, "key") == 0
    public = capsys.readouterr().out.strip()
    offline = ("verify", "--export", export, "--checkpoint", kept, "--public", public)
    assert run(nowhere, *offline) == 0
    assert "agrees: entry 5 and all before it" in capsys.readouterr().out
    rows = Path(export).read_text().splitlines(keepends=True)
    Path(export).write_text("".join(rows[:3]))
    assert run(nowhere, *offline) == 1
    assert "entries 4 to 5 were cut off at the end" in capsys.readouterr().out
    assert not nowhere.exists()


def test_a_file_that_is_no_checkpoint_is_refused(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept.json").write_text("[]")
    assert run(state, "verify", "--checkpoint", str(tmp_path / "kept.json")) == 2
    assert "is not a checkpoint" in capsys.readouterr().err


def test_a_lost_account_is_begun_anew_only_when_asked(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for segment in segments(state / "account"):
        segment.unlink()
    assert run(state, "checkpoint") == 2
    assert "`trimtab account begin`" in capsys.readouterr().err
    assert run(state, "begin") == 0
    assert run(state, "verify") == 0
    assert "was lost" in capsys.readouterr().out


def test_where_there_is_no_account_none_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("verify", "checkpoint", "export", "key"):
        assert run(tmp_path / "state", command) == 2
        assert "there is no account" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()
