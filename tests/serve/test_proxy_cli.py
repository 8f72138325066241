"""The command as a process: what it prints, what it imports, how it reloads and stops."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from serve.cli.command import COMMANDS, main
from tests.serve.conftest import Start, chat
from tests.upstream import FakeUpstream

HEAVY = (
    "torch",
    "transformers",
    "faiss",
    "tokenizers",
    "sentence_transformers",
    "tantivy",
    "onnxruntime",
    "numpy",
    "openai",
    "trainers",
    "fastapi",
    "pydantic",
    "httpx",
    "prompt_opt.stages.bpo",
)


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "serve.cli.command", *argv], capture_output=True, text=True, timeout=30, check=False
    )


def test_a_plain_proxy_imports_nothing_heavy() -> None:
    code = (
        "import sys, serve.cli.command, serve.process.parent, serve.process.worker, serve.cli.explain\n"
        "from serve.config import Flags\nfrom serve.configure.reader import load\n"
        "from serve.engine.live import LiveEngine\n"
        "from prompt_opt.pipeline import build\n"
        "config = load(Flags(upstream='http://x'), {})\n"
        "[LiveEngine(e) for e in config.engines.values()], [build(p) for p in config.policies.values()]\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"


def test_fastapi_is_loaded_when_one_of_its_routes_is_asked_for(start: Start) -> None:
    served = start()
    (worker,) = served.workers()

    def loaded() -> bool:
        return "pydantic_core" in Path(f"/proc/{worker}/maps").read_text()

    with httpx.Client(base_url=served.url, timeout=20) as http:
        assert http.get("/readyz").status_code in (200, 503)
        assert http.get("/healthz").status_code == 200
        assert http.post("/v1/chat/completions", json=chat()).status_code == 200
        assert not loaded()
        assert http.get("/v1/models").status_code == 200
        assert loaded()


def test_check_prints_the_resolved_configuration_without_secrets(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text(f'[engine.main]\nurl = "http://x/v1"\n[[key]]\nid = "a"\nsha256 = "{"a" * 64}"\n')
    done = run("check", "--config", str(file), "--port", "99")
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert (told["server"]["port"], told["server"]["policy"], told["engines"]["main"]["url"]) == (99, "raw", "http://x")
    assert told["policies"]["urial"]["profile"] == "default"
    assert "a" * 64 not in done.stdout


@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_mistake_ends_the_command_in_one_line(tmp_path: Path, command: str) -> None:
    file = tmp_path / "t.toml"
    file.write_text("[server]\nprt = 1\n")
    done = run(command, "--config", str(file))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"trimtab {command}: {file}:2: server.prt: unknown; valid are ")
    assert done.stderr.count("\n") == 1


def test_help_names_every_command_and_an_unknown_one_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)
    assert main(["sreve"]) == 2
    assert "no command 'sreve'; valid are serve, check" in capsys.readouterr().err
    assert main(["--version"]) == 0


def test_hangup_switches_the_policies_and_running_answers_keep_theirs(start: Start, upstream: FakeUpstream) -> None:
    served = start()
    text = served.config.read_text()

    def policy(**headers: str) -> httpx.Response:
        return httpx.post(f"{served.url}/v1/chat/completions", json=chat(), headers=headers, verify=False)

    assert policy().headers["x-trimtab-policy"] == "raw"
    upstream.scripts["long"] = ["a", 0.3, "b"] * 6
    ask = {"x-trimtab-policy": "base"}
    with (
        httpx.Client(verify=False, timeout=10) as http,
        http.stream(
            "POST", f"{served.url}/v1/chat/completions", json=chat(model="long", stream=True), headers=ask
        ) as stream,
    ):
        lines = stream.iter_lines()
        next(lines)
        changed = text.replace("[policy.base]", "[policy.better]").replace('policy = "base"', 'policy = "better"')
        served.config.write_text(changed.replace("max_n = 4", 'max_n = 4\npolicy = "better"'))
        served.process.send_signal(signal.SIGHUP)
        served.wait_for("trimtab: reloaded")
        assert policy().headers["x-trimtab-policy"] == "better"
        assert policy(**ask).status_code == 404
        assert "data: [DONE]" in list(lines)
    served.config.write_text("[sever]\n")
    served.process.send_signal(signal.SIGHUP)
    served.wait_for("configuration not reloaded, the running one stays in force: .*sever: unknown")
    assert policy().headers["x-trimtab-policy"] == "better"


def test_a_reload_changes_timeouts_and_traces_too(start: Start, upstream: FakeUpstream) -> None:
    served = start()
    text = served.config.read_text()
    served.config.write_text(text.replace("timeout_s = 30", "timeout_s = 0.5\ntrace_content = true"))
    served.process.send_signal(signal.SIGHUP)
    served.wait_for("trimtab: reloaded")
    chats = f"{served.url}/v1/chat/completions"
    answer = httpx.post(chats, json=chat(model="slow-headers-25"), verify=False, timeout=20)
    assert answer.status_code == 504
    headers = {"x-trimtab-policy": "chat"}
    answer = httpx.post(chats, json=chat("kept"), headers=headers, verify=False, timeout=60)
    trace = httpx.get(f"{served.url}/v1/traces/{answer.headers['x-trimtab-trace']}", verify=False, timeout=60).json()
    assert trace["before"] == [{"role": "user", "content": "kept"}]


def test_stopping_lets_a_running_answer_end(start: Start, upstream: FakeUpstream) -> None:
    served = start()
    upstream.scripts["ending"] = ["a", 0.3, "b", 0.3, "c"]
    with (
        httpx.Client(verify=False, timeout=10) as http,
        http.stream("POST", f"{served.url}/v1/chat/completions", json=chat(model="ending", stream=True)) as stream,
    ):
        lines = stream.iter_lines()
        next(lines)
        served.process.send_signal(signal.SIGTERM)
        assert "data: [DONE]" in list(lines)
    assert served.process.wait(10) == 0
