"""The clients in the documentation, run before the real command and the fake engine.

TRIMTAB_CLIENT_PYTHON is the interpreter of an environment that has all of them (`.ci/clients` makes one).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import pairwise

import httpx
import pytest
from blocks import Block, blocks, commands

from tests.serve.conftest import Served, start  # noqa: F401  (a fixture)

CONFIG = """
state_dir = "{state}"
[engine.main]
url = "{url}"
model = "echo"
[alias]
"trimtab-tiny" = { policy = "raw", model = "echo" }
"llama3.2" = { policy = "raw", model = "echo" }
"""
PYTHON = os.environ.get("TRIMTAB_CLIENT_PYTHON", "")
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def server(start) -> Iterator[Served]:  # noqa: F811
    served = start(file=CONFIG)
    yield served
    served.stop()


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_a_python_client_gets_its_answer(block: Block, server: Served) -> None:
    package = re.search(r"^from (\w+) import", block.text, re.MULTILINE)
    if package and not PYTHON and not find_spec(package[1]):
        pytest.skip(f"{package[1]} is not installed (.ci/clients installs it)")
    code = block.text.replace(ADDRESS, server.url)
    done = subprocess.run(
        [PYTHON or sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


BODIES = [
    pytest.param(body, id=f"{block}-{number}")
    for block in blocks("sh")
    for number, words in enumerate(commands(block.text))
    if words[0] == "curl" and any(word.endswith("/v1/chat/completions") for word in words)
    for flag, body in pairwise(words)
    if flag == "-d"
]


@pytest.mark.parametrize("body", BODIES)
def test_a_shown_request_is_answered(body: str, server: Served) -> None:
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=json.loads(body), timeout=30)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"]
    assert answer.headers["x-trimtab-trace"]
