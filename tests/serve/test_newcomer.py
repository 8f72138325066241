"""What somebody meets who has just installed this: what is missing is named, and how to get it; pipes may end early."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import Distribution
from pathlib import Path

import httpx
import pytest

from retrieval import extra
from serve.cli.command import main
from serve.process import launcher
from tests.serve.conftest import Start, chat

WITHOUT = (
    "import sys\n"
    "class Missing:\n"
    "    def find_spec(self, name, path=None, target=None):\n"
    "        if name.partition('.')[0] in ('numpy', 'yaml'): raise ModuleNotFoundError(name=name)\n"
    "sys.meta_path.insert(0, Missing())\n"
    "import importlib.util as util\n"
    "real = util.find_spec\n"
    "util.find_spec = lambda name, package=None: None if name in ('numpy', 'yaml') else real(name, package)\n"
    "from serve.cli.command import main\n"
    "sys.exit(main(sys.argv[1:]))\n"
)


class Installed(Distribution):
    """A distribution with this direct_url.json; None for one from an index."""

    def __init__(self, origin: dict[str, object] | None) -> None:
        self.origin = origin

    def read_text(self, filename: str) -> str | None:
        return json.dumps(self.origin) if self.origin is not None and filename == "direct_url.json" else None

    def locate_file(self, path: object) -> Path:
        return Path(str(path))


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'trimtab[otel]'"),
        ({"url": "file:///home/a%20b/t", "dir_info": {"editable": True}}, "pip install -e '/home/a b/t[otel]'"),
        ({"url": "file:///src/t", "dir_info": {}}, "pip install '/src/t[otel]'"),
        (
            {"url": "file:///w/trimtab-1-py3-none-any.whl", "archive_info": {}},
            "pip install 'trimtab[otel] @ file:///w/trimtab-1-py3-none-any.whl'",
        ),
    ],
)
def test_an_extra_is_named_as_it_can_be_installed(
    monkeypatch: pytest.MonkeyPatch, origin: dict[str, object] | None, command: str
) -> None:
    monkeypatch.setattr(extra, "distribution", lambda _: Installed(origin))
    assert extra.install("otel") == command


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (("index", "build", "x", "--input", "y"), "retrieval"),
        (("eval", "--effect", "0.1"), "eval"),
        (("eval", "--url", "http://127.0.0.1:9", "--arm", "a", "--arm", "b", "--prompts", "p", "--out", "o"), "eval"),
        (("train", "dpo", "--config", "dpo", "--out", "x"), "train"),
    ],
)
def test_a_command_on_the_core_names_its_extra(argv: tuple[str, ...], name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *argv], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    assert f"which is not installed: it comes with the extra '{name}': pip install" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def many_rewrites(tmp_path: Path) -> Path:
    """More rows than a pipe holds."""
    file = tmp_path / "pairs.jsonl"
    row = json.dumps({"prompt": "Tell me about cats", "rewrite": "Please tell me about cats, with an example."})
    file.write_text(f"{row}\n" * 2000)
    return file


@pytest.mark.parametrize("command", ["check", "--help", "eval --help", "rewrite --judge {rewrites}"])
def test_a_pipe_that_ends_early_is_no_traceback(command: str, many_rewrites: Path) -> None:
    """A reader that has gone before anything was written, too."""
    line = f"{sys.executable} -m serve.cli.command {command.format(rewrites=many_rewrites)}"
    for reader in ("head -c 1", "exec 0<&-"):
        done = subprocess.run(
            ["bash", "-c", f"{line} | {{ {reader}; }}; exit ${{PIPESTATUS[0]}}"],
            capture_output=True, text=True, timeout=60, check=False, cwd=many_rewrites.parent,
        )  # fmt: skip
        assert "Broken pipe" not in done.stderr
        assert "Exception ignored" not in done.stderr
        assert "Traceback" not in done.stderr
        assert done.returncode in (0, 128 + 13)  # small output fits into the pipe before its reader has gone


def test_a_full_disk_behind_standard_output_is_said() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "serve.cli.command", "--help"],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "trimtab --help: standard output: No space left on device\n")


def test_ctrl_c_while_a_command_is_loaded_is_no_traceback() -> None:
    program = (
        "import os, signal, sys\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'serve.cli.explain': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Slow())\n"
        "from serve.cli.command import main\n"
        "sys.exit(main(['explain', '--chat', 'x']))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (130, "\ntrimtab explain: stopped\n")


def test_the_command_loads_little_before_it_can_handle_ctrl_c() -> None:
    program = "import sys, serve.cli.command; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert {"msgspec", "asyncio", "serve.config", "prompt_opt"}.isdisjoint(done.stdout.split())


@pytest.mark.parametrize("command", ["index", "change", "account", "feedback"])
def test_a_command_without_its_verb_names_the_verbs(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command])
    assert "export" in capsys.readouterr().err


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (("explain", "--chat", "deep.json"), "--chat deep.json: nested too deeply"),
        (("rewrite", "--judge", "deep.json"), "deep.json: nested too deeply"),
        (("rewrite", "--upstream", "127.0.0.1:9", "deep.json"), "127.0.0.1:9: not an http:// or https:// URL"),
        (("feedback", "export", "--since", "yesterday"), "--since yesterday: not a date like 2026-01-31"),
        (("change", "draft", "--effective", "tomorrow"), "effective is not a date like 2027-01-31"),
        (("change", "rule", "c1", "parks-4", "--text", "x"), "'parks-4' is no INDEX/ID, such as law/parks-4"),
        (("change", "check", "c1", "deep.txt"), "deep.txt is not JSON"),
    ],
)
def test_a_wrong_use_is_named(
    argv: tuple[str, ...],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "deep.json").write_text(DEEP)
    (tmp_path / "deep.txt").write_text("{")
    (tmp_path / "trimtab.toml").write_text('[engine.main]\nurl = "http://127.0.0.1:9"\n')
    monkeypatch.chdir(tmp_path)
    assert main(["change", "draft", "--reason", "a draft to work on"]) == 0
    assert main([*argv]) in (1, 2)
    assert told in capsys.readouterr().err


def test_a_search_that_finds_nothing_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rules.jsonl").write_text('{"id": "a", "text": "Dogs must be kept on a lead in parks."}\n')
    assert main(["index", "build", "law", "--input", "rules.jsonl", "--embedder", "none"]) == 0
    capsys.readouterr()
    assert main(["index", "search", "law", "dogs"]) == 0
    assert "Dogs must be kept" in capsys.readouterr().out
    assert main(["index", "search", "law", "helicopter"]) == 0
    assert capsys.readouterr() == ("", "nothing found\n")


def test_calls_that_failed_show_in_the_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "How do I keep bread fresh?"}\n')
    assert main(["rewrite", "--upstream", "http://127.0.0.1:9", "prompts.jsonl"]) == 1
    assert "0 of 1 accepted, failed 1" in capsys.readouterr().err


def test_check_refuses_what_serve_would_refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "trimtab.toml"
    config.write_text('[engine.main]\nmodel = "./nowhere"\nlauncher = "transformers"\n')
    assert main(["check", "--config", str(config)]) == 2
    told = capsys.readouterr().err
    assert "engine.main" in told
    assert main(["serve", "--config", str(config)]) == 2
    assert capsys.readouterr().err.replace("serve", "check") == told


def test_serve_without_an_engine_says_what_would_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launcher, "_LOCAL", ("no_such_module",))
    (tmp_path / "trimtab.toml").write_text('[engine.main]\nmodel = "trimtab-tiny"\nlauncher = "transformers"\n')
    assert main(["check", "--config", str(tmp_path / "trimtab.toml")]) == 2
    assert "needs no_such_module: pip install" in (told := capsys.readouterr().err)
    assert "or give a server that you have: --upstream URL" in told


def test_every_command_reads_the_configuration_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trimtab.toml").write_text('state_dir = "kept"\n[engine.main]\nurl = "http://127.0.0.1:9"\n')
    monkeypatch.chdir(tmp_path)
    assert main(["check"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["state_dir"] == "kept"
    assert "the configuration is ./trimtab.toml" in err
    assert main(["rewrite", "--rewriter", "any"]) == 2
    assert "trimtab.toml has no [rewriter.NAME]" in capsys.readouterr().err


def test_a_name_where_there_are_none_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "trimtab.toml"
    stage = '[policy.p]\nstages = ["opo"]\n[policy.p.opo]\nindex = ["law"]\n'
    config.write_text('[engine.main]\nurl = "http://x"\n' + stage)
    assert main(["check", "--config", str(config)]) == 2
    assert "no index 'law'; valid are none" in capsys.readouterr().err


async def test_a_trimtab_before_a_trimtab_is_said(start: Start) -> None:
    inner = start()
    outer = start(file=f'state_dir = "{{state}}"\n[engine.main]\nurl = "{inner.url}"\n')
    outer.wait_for(rf"engine main: {inner.url} is a Trimtab too, whose policy \S+ applies after ours")
    async with httpx.AsyncClient(base_url=outer.url, timeout=60) as http:
        answer = await http.post("/v1/chat/completions", json=chat())
    assert answer.headers["x-engine-applied"] == answer.headers["x-trimtab-applied"] == "none"
