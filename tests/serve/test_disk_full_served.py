"""A disk that is full under the state folder of a running server."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks import full_disk
from tests.serve.conftest import Served, Start, chat
from tests.upstream import FakeUpstream

pytest.importorskip("faiss", reason="needs trimtab[retrieval]")
FILE = """
state_dir = "DISK/state"
[server]
trace_content = true
[engine.main]
url = "{url}"
[index.law]
embedder = "none"
[policy.rules]
stages = ["opo"]
render = "chat"
budget_ms = 30000
opo = { index = ["law"], pinned = ["law/creed"] }
"""
RULES = [{"id": "creed", "text": "Always be kind."}, {"id": "bees", "text": "Follow a swarm of bees."}]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(full_disk.disk(tmp_path / "disk", 16))
        except subprocess.CalledProcessError:
            pytest.skip("a file system of its own needs the right to mount one")
        yield folder


def asked(served: Served, upstream: FakeUpstream, text: str) -> str:
    """The prompt that reached the engine."""
    headers = {"x-trimtab-policy": "rules"}
    answer = httpx.post(served.url + "/v1/chat/completions", json=chat(text), headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    return next(r.body for r in reversed(upstream.requests) if r.method == "POST").decode()


def changed(served: Served, rules: list[dict[str, Any]]) -> httpx.Response:
    return httpx.post(served.url + "/v1/principles", json={"index": "law", "principles": rules}, timeout=60)


def test_changes_are_507_chats_go_on_and_room_heals_it(start: Start, upstream: FakeUpstream, disk: Path) -> None:
    served = start(file=FILE.replace("DISK", str(disk)))
    assert changed(served, RULES).status_code == 200
    assert "Always be kind" in asked(served, upstream, "bees?")
    ballast = full_disk.fill(disk)
    many = [{"id": f"m{n}", "text": f"Sundial {n}. " * 40} for n in range(400)]
    started = time.monotonic()
    refused = [changed(served, many) for _ in range(3)]
    assert {answer.status_code for answer in refused} == {507}
    assert refused[0].json()["error"]["code"] == "disk_full"
    assert time.monotonic() - started < 30
    for _ in range(3):
        prompt = asked(served, upstream, "a swarm of bees?")
        assert "Always be kind" in prompt
        assert "Follow a swarm of bees" in prompt
    assert httpx.get(served.url + "/readyz").status_code == 200
    ballast.unlink()
    assert changed(served, [*many, {"id": "gnomon", "text": "A gnomon casts a shadow."}]).status_code == 200
    deadline = time.monotonic() + 60
    while "gnomon casts" not in asked(served, upstream, "a gnomon?"):
        assert time.monotonic() < deadline
    assert not [line for line in served.said if "Traceback" in line]


@pytest.mark.parametrize(("settings", "status"), [("", 502), (', pinned_on_error = "skip"', 200)])
def test_pinned_principles_that_cannot_be_read_fail_the_request(
    start: Start, upstream: FakeUpstream, tmp_path: Path, settings: str, status: int
) -> None:
    (tmp_path / "broken").write_text("this is no folder")
    file = FILE.replace("DISK", str(tmp_path)).replace("[index.law]", f'[index.law]\npath = "{tmp_path}/broken/law"')
    served = start(file=file.replace('["law/creed"]', '["law/creed"]' + settings))
    before = len(upstream.requests)
    headers = {"x-trimtab-policy": "rules"}
    answer = httpx.post(served.url + "/v1/chat/completions", json=chat("bees?"), headers=headers, timeout=60)
    assert answer.status_code == status
    assert httpx.post(served.url + "/v1/explain", json=chat("bees?"), headers=headers).status_code == status
    if status == 502:
        assert answer.json()["error"]["code"] == "stage_failed"
        assert "stage opo failed" in answer.json()["error"]["message"]
        assert not [r for r in upstream.requests[before:] if r.method == "POST"]
