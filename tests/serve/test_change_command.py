"""`trimtab change` on a state folder: from a draft to the account, tried and replayed before it is in force."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from serve.cli.change import main
from serve.config import Flags
from serve.configure.reader import load
from serve.store.account.verification import verify
from tests.serve.conftest import key_table

CONFIG = """
state_dir = "{folder}/state"
[engine.main]
url = "http://127.0.0.1:9"
[index.law]
embedder = "none"
[policy.rules]
stages = ["opo"]
[policy.rules.opo]
index = ["law"]
"""
POLICY = 'stages = ["opo"]\nbudget_ms = 900\n[opo]\nindex = ["law"]\n'
Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `trimtab change` in the name of a key; what it printed, on either stream."""
    config = CONFIG.format(folder=tmp_path)
    for name, rights in (("ada", ["author"]), ("ben", ["approver"])):
        config += key_table(name, f"sk-{name}", rights)
        monkeypatch.setenv(name.upper(), f"sk-{name}")
    (tmp_path / "trimtab.toml").write_text(config)
    monkeypatch.chdir(tmp_path)

    def go(who: str, *argv: str, status: int = 0) -> str:
        assert main([*argv, "--key-env", who.upper()]) == status
        said = capsys.readouterr()
        return said.out + said.err

    return go


def names() -> set[str]:
    return set(load(Flags(config="trimtab.toml")).policies)


def test_a_change_goes_its_way_and_the_account_is_whole(run: Run, tmp_path: Path) -> None:
    Path("careful.toml").write_text(POLICY)
    run("ada", "draft", "--reason", "a new bylaw")
    run("ada", "rule", "c1", "law/parks-4", "--text", "Dogs must be kept on a leash in parks.")
    run("ada", "policy", "c1", "careful", "--file", "careful.toml")
    tried = run("ada", "try", "c1", "May my dogs run in parks?", "--policy", "rules")
    assert "law/parks-4 comes" in tried
    assert "{+" in tried
    assert names().isdisjoint({"careful"})
    run("ada", "submit", "c1")
    assert "lacks the right 'approver'" in run("ada", "approve", "c1", status=1)
    assert "c1 is in force" in run("ben", "approve", "c1", "--comment", "fine")
    assert "careful" in names()
    shown = run("ben", "show", "c1")
    assert "adds the rule law/parks-4" in shown
    assert "approved by ben: fine" in shown
    run("ben", "rollback", "c1")
    assert "careful" not in names()
    assert "c1    retired    ada" in run("ben", "list")
    verdict = verify(tmp_path / "state/account")
    assert verdict.whole
    entries = [json.loads(line) for file in sorted((tmp_path / "state/account").glob("*.jsonl"))
               for line in file.read_text().splitlines()]  # fmt: skip
    steps = [(row["change"], row["step"], row["by"]) for row in entries if row["kind"] == "change"]
    assert steps == [
        ("c1", "submitted", "ada"), ("c1", "approved", "ben"), ("c1", "in_force", "ben"),
        ("c2", "in_force", "ben"), ("c1", "retired", "ben"),
    ]  # fmt: skip
    assert next(row for row in entries if row.get("step") == "in_force")["policies"].keys() == {"careful", "rules"}


def test_a_replay_says_what_changes_and_goes_on_where_it_stopped(run: Run) -> None:
    Path("q.jsonl").write_text('{"id": "a", "prompt": "May my dogs run in parks?"}\n"What about the bins?"\n')
    run("ada", "draft", "--reason", "r")
    run("ada", "rule", "c1", "law/parks-4", "--text", "Dogs must be kept on a leash in parks.")
    said = run("ada", "replay", "c1", "--questions", "q.jsonl", "--out", "rows.jsonl")
    assert "2 prompts, 1 changed (50.0%)" in said
    assert "law/parks-4 comes into 1 of 2 prompts" in said
    lines = Path("rows.jsonl").read_bytes().splitlines(keepends=True)
    Path("rows.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:10])
    assert "2 prompts, 1 changed" in run("ada", "replay", "c1", "--questions", "q.jsonl", "--out", "rows.jsonl")
    assert sorted(Path("rows.jsonl").read_bytes().splitlines()) == sorted(line.strip() for line in lines)
    run("ada", "rule", "c1", "law/parks-5", "--text", "Cats too.")
    assert "another change" in run("ada", "replay", "c1", "--questions", "q.jsonl", "--out", "rows.jsonl", status=2)


def test_managed_policies_go_to_toml_and_back(run: Run) -> None:
    Path("careful.toml").write_text(POLICY)
    Path("mine.toml").write_text('instruction = "Be brief."\n')
    run("ada", "draft", "--reason", "r")
    run("ada", "policy", "c1", "careful", "--file", "careful.toml")
    run("ada", "profile", "c1", "mine", "--file", "mine.toml")
    run("ada", "submit", "c1")
    run("ben", "approve", "c1")
    run("ada", "export", "--out", "out")
    assert "nothing differs" in run("ada", "import", "out/managed.toml", "--exact")
    file = Path("out/managed.toml")
    file.write_text(file.read_text().replace("900", "800"))
    assert "budget_ms: [-900-]{+800+}" in run("ada", "import", "out/managed.toml", "--reason", "faster")


def test_a_required_check_must_be_of_the_very_policy(run: Run) -> None:
    run("ada", "draft", "--reason", "r", "--requires", "rules")
    run("ada", "rule", "c1", "law/parks-4", "--text", "Dogs must be kept on a leash in parks.")
    run("ada", "submit", "c1")
    assert "no passed release check of rules" in run("ben", "approve", "c1", status=1)
