"""python .ci/ask.py TRIMTAB: chats through an installed `trimtab` before the fake engine, from an empty folder.

It fails unless a raw chat, an aligned one, an aligned stream, the page and a FastAPI route all answer as they should.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from upstream import FakeUpstream


def ask(url: str, body: dict[str, object] | None = None, **headers: str) -> str:
    """The text of an answer to a GET, or to a POST of `body`."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return str(answer.read().decode())


def check(base: str, upstream: FakeUpstream) -> None:
    """Ask for one of everything that the core serves."""
    chat: dict[str, object] = {"model": "echo", "messages": [{"role": "user", "content": "Why?"}]}
    for policy in ("raw", "urial"):
        named = {"X-Trimtab-Policy": policy}
        assert json.loads(ask(f"{base}/v1/chat/completions", chat, **named))["choices"][0]["message"]["content"]
        assert ask(f"{base}/v1/chat/completions", {**chat, "stream": True}, **named).rstrip().endswith("[DONE]")
    sent = json.loads(upstream.requests[-1].body)["messages"]
    assert len(sent) > 2, "the profile's exemplars are part of the package"
    assert "<title>Trimtab" in ask(base + "/"), "so is the page"
    assert '"urial"' in ask(base + "/v1/policies")


def main() -> None:
    """Serve, ask, stop."""
    with FakeUpstream() as upstream, tempfile.TemporaryDirectory() as folder:
        command = [sys.argv[1], "serve", "--upstream", upstream.url, "--port", "0"]
        server = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            found = re.search(r"http://\S+", server.stdout.readline())
            assert found, "the server did not start"
            check(found[0], upstream)
            server.send_signal(signal.SIGTERM)
            assert server.wait(30) == 0
        finally:
            server.kill()


main()
