"""Evaluation reports: listed and told, and nothing outside their folder."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.config import ConfigError, Flags
from serve.configure.reader import load
from tests.serve.conftest import Served, Start

CONFIG = """
state_dir = "{{state}}"
[server]
policy = "raw"
reports = "{runs}"
[engine.main]
url = "{{url}}"
[[key]]
id = "reader"
sha256 = "{reader}"
rights = ["reports"]
[[key]]
id = "other"
sha256 = "{other}"
"""
REPORT: dict[str, Any] = {
    "schema": "trimtab-eval-report/1",
    "summary": ["careful against raw: no difference shown."],
    "questions": 4,
    "arms": {},
    "comparisons": [],
    "kinds": {},
    "judge": {},
    "calibration": None,
    "run": {"version": "1", "baseline": "raw", "command": "eval --url http://10.0.0.1", "finished": "2026-01-02"},
}


def bearer(who: str) -> dict[str, str]:
    return {"authorization": f"Bearer {who}"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs; beside them what is none: a link out, a run whose report is a link or a pipe, a hidden one."""
    top = tmp_path_factory.mktemp("reports")
    runs, outside = top / "runs", top / "outside"
    for folder in (runs / "first", runs / "second", runs / ".hidden", outside):
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps(REPORT))
    for at, name in enumerate(("first", "second")):
        os.utime(runs / name / "report.json", (1000 + at, 1000 + at))
    (runs / "away").symlink_to(outside)
    for name in ("linked", "piped", "unfinished", "torn", "older"):
        (runs / name).mkdir()
    (runs / "linked" / "report.json").symlink_to(outside / "report.json")
    os.mkfifo(runs / "piped" / "report.json")
    (runs / "torn" / "report.json").write_text("{")
    os.utime(runs / "torn" / "report.json", (900, 900))
    (runs / "older" / "report.json").write_text('{"schema": "other"}')
    os.utime(runs / "older" / "report.json", (800, 800))
    return runs


@pytest.fixture(scope="module")
def reporting(start: Start, runs: Path) -> Served:
    hashes = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("reader", "other")}
    return start(file=CONFIG.format(runs=runs, **hashes))


def get(served: Served, path: str, who: str = "reader") -> httpx.Response:
    return httpx.get(f"{served.url}/v1/reports{path}", headers=bearer(who), timeout=60)


def test_runs_with_a_report_are_listed_newest_first(reporting: Served) -> None:
    assert [row["id"] for row in get(reporting, "").json()["data"]] == ["second", "first", "torn", "older"]


def test_a_report_is_told_without_the_runs_command(reporting: Served) -> None:
    told = get(reporting, "/first").json()
    assert told["summary"] == REPORT["summary"]
    assert told["run"] == {"version": "1", "started": None, "finished": "2026-01-02", "baseline": "raw"}
    assert "10.0.0.1" not in json.dumps(told)


@pytest.mark.parametrize(
    "name",
    ["away", "linked", "piped", "unfinished", "none", ".hidden", "..", "%2e%2e", "..%2foutside", "%2fetc", "a%00"],
)
def test_nothing_but_the_runs_of_the_folder_is_read(reporting: Served, name: str) -> None:
    assert get(reporting, f"/{name}").status_code == 404


@pytest.mark.parametrize("name", ["torn", "older"])
def test_a_file_that_is_no_report_is_refused_with_a_code_of_its_own(reporting: Served, name: str) -> None:
    answer = get(reporting, f"/{name}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "report_unreadable")


def test_reports_take_a_right(reporting: Served) -> None:
    assert [get(reporting, path, "other").status_code for path in ("", "/first", "/none")] == [403] * 3


def test_without_a_folder_there_are_no_reports(served: Served) -> None:
    assert httpx.get(f"{served.url}/v1/reports", timeout=60).json()["data"] == []
    assert httpx.get(f"{served.url}/v1/reports/first", timeout=60).status_code == 404


def test_a_folder_that_is_not_there_is_named_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "trimtab.toml"
    file.write_text('[server]\nreports = "none-such"\n[engine.main]\nurl = "http://127.0.0.1:1"\n')
    with pytest.raises(ConfigError, match="no folder 'none-such'"):
        load(Flags(config=str(file)), {})
