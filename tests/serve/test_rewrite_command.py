"""`trimtab rewrite`: a rewriter looked at from the command line, and the gate alone."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from prompt_opt.rewriter.template import BPO
from serve.cli.rewrite import main


class Engine(ThreadingHTTPServer):
    """Answers every prompt with what `says` makes of it; records the bodies."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[str | None] = []
        self.says: Any = lambda prompt: prompt + " Give an example."
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Engine

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self.server.headers.append(self.headers["Authorization"])
        prompt = body["prompt"].removeprefix(BPO.before).removesuffix(BPO.after) if "prompt" in body else ""
        text = self.server.says(prompt)
        choice = {"text": text} if "prompt" in body else {"message": {"role": "assistant", "content": text}}
        data = json.dumps({"choices": [choice]}).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def engine() -> Iterator[Engine]:
    server = Engine()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def jsonl(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_judging_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = jsonl(
        tmp_path / "pairs.jsonl",
        {"prompt": "Give me 5 tips.", "rewrite": "Please give me 5 good tips.", "id": 7},
        {"prompt": "Give me 5 tips.", "rewrite": "Please give me good tips."},
        {"prompt": "Give me 5 tips.", "rewrite": "Say why they work.", "mode": "complement"},
    )
    assert main(["--judge", pairs]) == 0
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["accepted"], row["rule"]) for row in rows] == [(True, ""), (False, "number"), (True, "")]
    assert rows[0]["id"] == 7
    assert err == "2 of 3 accepted, number 1\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", ":2: not JSON"),
        ("[1]", ":2: must be an object, not list"),
        ('{"prompt": "a"}', ":2: rewrite is missing or no string"),
        ('{"prompt": 1, "rewrite": "b"}', ":2: prompt is missing or no string"),
        (
            '{"prompt": "a", "rewrite": "b", "mode": "demo"}',
            ":2: mode 'demo' is unknown; valid are replace, complement",
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, message: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "a", "rewrite": "b"}\n' + line + "\n")
    assert main(["--judge", str(path)]) == 2
    assert f"{path}{message}" in capsys.readouterr().err


def test_a_missing_file_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--judge", "nowhere.jsonl"]) == 2
    assert "nowhere.jsonl" in capsys.readouterr().err


def test_one_prompt_from_stdin(
    engine: Engine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Why is the sky blue?\n"))
    assert main(["--upstream", engine.url + "/v1", "--template", "bpo", "--decoding", "greedy", "--model", "m"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("Why is the sky blue?{+ Give an example.+}\n", "accepted\n")
    assert engine.bodies == [
        {"model": "m", "prompt": BPO.text("Why is the sky blue?"), "max_tokens": 1024, "temperature": 0.0}
    ]


def test_a_rejected_rewrite_is_shown_with_its_reason(
    engine: Engine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.says = lambda prompt: "Sure! Light is scattered."
    monkeypatch.setattr("sys.stdin", io.StringIO("Why is the sky blue?"))
    assert main(["--upstream", engine.url]) == 1
    assert capsys.readouterr() == ("Sure! Light is scattered.\n", "rejected: answered (Sure!)\n")


def test_the_engine_judges_what_the_rewriter_adds(engine: Engine, tmp_path: Path) -> None:
    said = ["Name the most common causes.", "BAD"]
    engine.says = lambda _: said.pop(0)
    prompts, out = tmp_path / "p.jsonl", tmp_path / "o.jsonl"
    prompts.write_text('{"prompt": "Why do cats purr?"}\n')
    assert main(["--upstream", engine.url, "--additions", "engine", str(prompts), "--out", str(out)]) == 0
    row = json.loads(out.read_text())
    assert (row["accepted"], row["rule"], row["detail"]) == (False, "added", "the judge says BAD")
    assert "Name the most common causes." in engine.bodies[1]["messages"][0]["content"]


def test_a_file_of_prompts_and_going_on_where_it_stopped(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = jsonl(tmp_path / "p.jsonl", *({"prompt": f"Explain idea {i} to me.", "id": i} for i in range(6)))
    out = str(tmp_path / "out.jsonl")
    jsonl(Path(out), {"prompt": "Explain idea 0 to me."})
    assert main(["--upstream", engine.url, "--template", "bpo", prompts, "--out", out]) == 0
    rows = [json.loads(line) for line in Path(out).read_text().splitlines()]
    assert sorted(row["id"] for row in rows[1:]) == [1, 2, 3, 4, 5]
    assert all(row["accepted"] and row["rewrite"].endswith("Give an example.") for row in rows[1:])
    assert capsys.readouterr().err == "1 of 6 are in " + out + " already\n5 of 5 accepted\n"


def test_prompts_stand_in_any_usual_column(engine: Engine, tmp_path: Path) -> None:
    rows = [
        {"question_id": 1, "text": "Explain idea 1 to me."},
        {"instruction": "Explain this idea to me.", "context": "Idea 2."},
        {"instruction": "Explain idea 3 to me.", "input": ""},
        {"turns": ["Explain idea 4 to me.", "And now?"]},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Explain idea 5 to me."}]},
    ]
    listed, out = tmp_path / "p.json", tmp_path / "out.jsonl"
    listed.write_text(json.dumps(rows))
    assert main(["--upstream", engine.url, "--template", "bpo", str(listed), "--out", str(out)]) == 0
    done = sorted(json.loads(line)["prompt"] for line in out.read_text().splitlines())
    assert done == [
        "Explain idea 1 to me.", "Explain idea 3 to me.", "Explain idea 4 to me.", "Explain idea 5 to me.",
        "Explain this idea to me.\n\nIdea 2.",
    ]  # fmt: skip


def test_what_a_run_that_broke_off_has_left_is_mended(engine: Engine, tmp_path: Path) -> None:
    prompts = jsonl(tmp_path / "p.jsonl", *({"prompt": f"Explain idea {i % 3} to me.", "id": i} for i in range(4)))
    out = tmp_path / "out.jsonl"
    row = {"prompt": "Explain idea 0 to me.", "id": 0, "rewrite": "x", "accepted": True, "rule": ""}
    jsonl(out, row, {"prompt": "Explain idea 1 to me.", "id": 1, "rule": "failed"})
    with out.open("a") as file:
        file.write('{"prompt": "Explain idea 2')
    assert main(["--upstream", engine.url, "--template", "bpo", prompts, "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows[0] == row
    assert sorted(row["id"] for row in rows) == [0, 1, 2, 3]  # a prompt that stands twice has two rows
    assert all(row["accepted"] for row in rows)


CONFIG = """
[engine.a]
url = "{url}"
[engine.own]
launcher = "transformers"
model = "serve/models/trimtab-tiny"
[rewriter.house]
engine = "a"
template = "bpo"
decoding = "greedy"
model = "m"
max_tokens = 77
[rewriter.launched]
engine = "own"
"""


@pytest.fixture
def config(engine: Engine, tmp_path: Path) -> str:
    path = tmp_path / "trimtab.toml"
    path.write_text(CONFIG.replace("{url}", engine.url))
    return str(path)


def test_a_rewriter_of_the_configuration(
    engine: Engine, config: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Why is the sky blue?\n"))
    assert main(["--config", config, "--rewriter", "house"]) == 0
    assert capsys.readouterr() == ("Why is the sky blue?{+ Give an example.+}\n", "accepted\n")
    assert engine.bodies == [
        {"model": "m", "prompt": BPO.text("Why is the sky blue?"), "max_tokens": 77, "temperature": 0.0}
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rewriter", "hose"], "no rewriter 'hose'; valid are house, launched"),
        ([], "--rewriter NAME is needed; valid are house, launched"),
        (["--rewriter", "launched"], "give its address with --upstream"),
        (["--rewriter", "house"], "no prompt on stdin"),
    ],
)
def test_a_configuration_that_cannot_be_used_says_why(
    config: str, flags: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(" "))
    assert main(["--config", config, *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_configuration_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", "nowhere.toml", "--rewriter", "x"]) == 2
    assert "nowhere.toml" in capsys.readouterr().err


def test_many_failures_do_not_end_a_run(engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine.status = 500
    prompts = jsonl(tmp_path / "p.jsonl", *({"prompt": f"Explain idea {i}."} for i in range(8)))
    assert main(["--upstream", engine.url, "--jobs", "1", prompts]) == 1
    assert len(engine.bodies) == 8
    assert capsys.readouterr().err == "0 of 8 accepted, failed 8\n"


def test_lines_end_at_newlines_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes('\ufeff{"prompt": "Why\u2028so?", "rewrite": "Why is it\u2028so?"}\r\n\n'.encode())
    assert main(["--judge", str(path)]) == 0
    path.write_bytes(b'{"prompt": "\xff"}')
    assert main(["--judge", str(path)]) == 2
    assert f"{path}: not UTF-8 at byte 12" in capsys.readouterr().err


def test_an_engine_that_fails_is_a_row_that_says_so(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.status = 500
    prompts = jsonl(tmp_path / "p.jsonl", {"prompt": "Explain it."})
    assert main(["--upstream", engine.url, prompts]) == 1
    row = json.loads(capsys.readouterr().out)
    assert (row["accepted"], row["rule"]) == (False, "failed")
    assert "500" in row["detail"]


def test_the_key_comes_from_the_environment(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = jsonl(tmp_path / "p.jsonl", {"prompt": "Explain it."})
    assert main(["--upstream", engine.url, "--key-env", "NO_SUCH_KEY", prompts]) == 2
    assert "NO_SUCH_KEY" in capsys.readouterr().err
    monkeypatch.setenv("SOME_KEY", "secret")
    main(["--upstream", engine.url, "--key-env", "SOME_KEY", prompts])
    assert engine.headers == ["Bearer secret"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["p.jsonl"], "give an engine with --upstream URL"),
        (["--upstream", "http://x", "--rewriter", "house"], "not both"),
        (["--judge", "pairs.jsonl", "--additions", "engine"], "--judge asks no engine"),
        (["--rewriter", "house", "--template", "bpo"], "--template: only with --upstream"),
        (["--upstream", "http://x", "nowhere.jsonl"], "nowhere.jsonl: No such file or directory"),
        (["--upstream", "http://x", "--template", "bpo", "--mode", "complement"], "can only replace"),
    ],
)
def test_wrong_flags_are_errors_that_teach(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert message in capsys.readouterr().err
