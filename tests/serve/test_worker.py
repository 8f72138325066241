"""A worker process of its own, with this test in the parent's place."""

import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from tests.serve.conftest import Start

FILE = """
state_dir = "{folder}/state"
[engine.main]
command = ["never-started", "{{port}}"]
model = "echo"
"""


def test_a_worker_reads_what_it_was_told_while_it_started(tmp_path: Path) -> None:
    """The engine may be ready before the worker reads its first line; the second is then there already."""
    config = tmp_path / "trimtab.toml"
    config.write_text(FILE.format(folder=tmp_path))
    listener = socket.create_server(("127.0.0.1", 0))
    reports, report_fd = os.pipe()

    def told(revision: int, state: str) -> bytes:
        engine: dict[str, Any] = {"url": "http://127.0.0.1:9", "model": "echo", "kind": "", "state": state}
        line = {
            "config": ["--config", str(config)], "fd": listener.fileno(), "report_fd": report_fd, "worker": 0,
            "revision": revision, "host": "127.0.0.1", "keyed": False, "engines": {"main": engine | {"reason": ""}},
        }  # fmt: skip
        return json.dumps(line).encode() + b"\n"

    worker = subprocess.Popen(
        [sys.executable, "-P", "-m", "serve.process.worker"],
        stdin=subprocess.PIPE, pass_fds=(listener.fileno(), report_fd),
    )  # fmt: skip
    os.close(report_fd)
    assert worker.stdin is not None
    try:
        worker.stdin.write(told(1, "starting") + told(2, "ready"))
        worker.stdin.flush()
        with open(reports, "rb") as lines:
            assert json.loads(lines.readline()) == {"ready": True}  # the end of file comes if it dies
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/readyz"
        deadline = time.monotonic() + 60
        while (answer := httpx.get(url, timeout=60)).status_code != 200:
            assert time.monotonic() < deadline, answer.text
    finally:
        worker.stdin.close()
        worker.wait(60)
        listener.close()


def test_idle_connections_take_no_more_descriptors_than_the_system_has(start: Start) -> None:
    """Of 1,024, as most shells and service managers give a process, one client could take all and say nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
    try:
        served = start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    host, port = served.url.removeprefix("http://").split(":")
    with contextlib.ExitStack() as idle:
        for _ in range(400):
            idle.enter_context(socket.create_connection((host, int(port)), timeout=60))
        assert httpx.get(served.url + "/healthz", timeout=60).status_code == 200
