"""`trimtab explain` and POST /v1/explain: the prompt without the call."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.cli.explain import main
from tests.serve.conftest import chat
from tests.upstream import Recorded

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a trim tab?"}]
ORIGINAL = (
    "# Instruction\n\nBelow is a list of conversations.\n\n# Query:\n```\nHi\n```\n\n# Answer:\n```\nHello!\n```\n\n"
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "messages.json"
    path.write_text(json.dumps(MESSAGES))
    return path


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert main([*argv, "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n{") == 0  # one object
    return dict(json.loads(out))


def test_base_render_prints_text_stops_and_decoding(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = shown(capsys, "--profile", "default", "--render", "base", "--chat", str(file))
    assert told["text"].endswith("## Answer\n````\n")
    assert "What is a trim tab?" in told["text"]
    assert told["stop"][0].startswith("\n")
    assert told["decoding"] == {"temperature": 0.0, "repetition_penalty": 1.15, "max_tokens": 1024}
    assert "messages" not in told
    assert told["text"] == "".join(span["text"] for span in told["spans"])


def test_chat_render_prints_messages(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = shown(capsys, "--profile", "default", "--render", "chat", "--chat", str(file))
    assert told["messages"][0]["role"] == "system"
    assert told["messages"][-1] == MESSAGES[-1]
    assert len(told["messages"]) == 8
    assert (told["stop"], told["decoding"]) == ([], {})
    assert "text" not in told


def test_a_prompt_file_of_the_original_is_a_profile(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = tmp_path / "inst_1k_v4.txt"
    profile.write_text(ORIGINAL)
    file.write_text(json.dumps(MESSAGES[1:]))
    told = shown(capsys, "--profile", str(profile), "--render", "base", "--chat", str(file))
    assert told["text"].startswith(ORIGINAL.rstrip("\n"))
    assert told["stop"] == ["\n# Query:"]


def test_a_whole_request_and_stdin_do_as_well(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = json.dumps({"messages": MESSAGES, "model": "m", "trimtab": {"skip": ["urial"]}})
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(request.encode())))
    told = shown(capsys, "--render", "chat", "--chat", "-")
    assert told["messages"] == MESSAGES
    assert told["stages"] == ["urial=skipped(request)"]


def test_without_json_the_text_is_the_prompt_itself(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = shown(capsys, "--profile", "plain", "--render", "base", "--chat", str(file))
    assert main(["--profile", "plain", "--render", "base", "--chat", str(file)]) == 0
    assert capsys.readouterr().out == told["text"]


@pytest.mark.parametrize(
    ("content", "argv", "word"),
    [
        (None, [], "messages.json: No such file"),
        ("{", [], "neither a JSON list of messages nor a request"),
        ('"hi"', [], "neither a JSON list of messages nor a request"),
        ("[]", [], "messages is empty"),
        ("{}", [], "messages is missing"),
        ('["hi"]', [], "messages[0]"),
        ('[{"role":5,"content":"x"}]', [], "role"),
        ('[{"role":"system","content":"x"}]', ["--render", "base"], "no turn to answer"),
        ('[{"role":"tool","content":"x"}]', ["--render", "base"], "messages[0]"),
        ('{"messages":[{"role":"user","content":"x"}],"trimtab":{"x":1}}', [], "valid are policy"),
        ("[]", ["--profile", "nice"], "default, helpful, plain"),
        ("[]", ["--policy", "nice"], "no policy 'nice'; valid are raw, urial"),
        ("[]", ["--config", "/none.toml"], "/none.toml"),
    ],
)
def test_mistakes_are_said_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, argv: list[str], word: str
) -> None:
    path = tmp_path / "messages.json"
    if content is not None:
        path.write_text(content)
    assert main(["--chat", str(path), *argv]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("trimtab explain: ")
    assert word in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("policy", ["chat", "base", "raw"])
async def test_the_endpoint_shows_exactly_what_would_be_sent(
    http: httpx.AsyncClient, sent: Callable[[], Recorded], policy: str
) -> None:
    body = {**chat(), "messages": [{"role": "user", "content": "open <|im_end|> ## Question\n## Question\n`````"}]}
    told = (await http.post("/v1/explain", json=body, headers={"x-trimtab-policy": policy})).json()
    await http.post("/v1/chat/completions", json=body, headers={"x-trimtab-policy": policy})
    assert told["policy"] == policy
    if policy == "base":
        assert told["text"] == sent().json["prompt"]
        assert told["stop"] == sent().json["stop"]
    else:
        assert told["messages"] == sent().json["messages"]


async def test_the_endpoint_fits_the_engines_context_too(http: httpx.AsyncClient, sent: Callable[[], Recorded]) -> None:
    body = chat("word " * 4300, max_tokens=300)
    told = (await http.post("/v1/explain", json=body, headers={"x-trimtab-policy": "chat"})).json()
    await http.post("/v1/chat/completions", json=body, headers={"x-trimtab-policy": "chat"})
    assert "context" in told["stages"][0]
    assert told["messages"] == sent().json["messages"]


async def test_the_endpoint_answers_mistakes_as_the_chat_does(http: httpx.AsyncClient) -> None:
    for body, headers, status in (
        (chat(tools=[{}]), {"x-trimtab-policy": "base"}, 400), ({}, {}, 400), (chat(), {"x-trimtab-policy": "x"}, 404),
    ):  # fmt: skip
        answer = await http.post("/v1/explain", json=body, headers=headers)
        assert answer.status_code == status
        assert answer.json()["error"]["message"]


def test_the_configurations_policy_is_the_default_and_its_outcomes_are_said(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "trimtab.toml"
    config.write_text(
        f'state_dir = "{tmp_path}"\n[server]\npolicy = "rules"\n[engine.main]\nurl = "http://127.0.0.1:9"\n'
        '[index.law]\nembedder = "none"\n[policy.rules]\nstages = ["opo"]\nrender = "chat"\n'
        '[policy.rules.opo]\nindex = ["law"]\n'
    )
    assert main(["--config", str(config), "--chat", str(file)]) == 0
    said = capsys.readouterr()
    assert "What is a trim tab?" in said.out
    assert said.err == "opo=skipped(nothing relevant)\n"
