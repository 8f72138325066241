"""Every command and configuration in the documentation is read by the code that it is meant for."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Mapping
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
from blocks import EXAMPLES, ROOT, Block, blocks, commands

from docs.parts.commands import parser_of
from prompt_opt import profile
from serve.cli.command import COMMANDS
from serve.config import Config, Flags
from serve.configure.flags import parse
from serve.configure.reader import load
from trainers.chain.chain_reader import CHAINS, read_chain
from trainers.evaluation.checks.limit import read_check

LANGUAGES = {"toml", "json", "jsonl", "python", "sh", "text", "yaml"}
# Programs that are not ours; what they are told is theirs to check.
FOREIGN = {
    "docker", "helm", "kubectl", "ray", "serve", "vllm", "ollama", "llama-server", "printf", "export", "kill", "cd",
    "cp", "mkdir", "git", "python3", "apt-get", "uv", "sha256sum",
}  # fmt: skip
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


class Environment(dict[str, str]):
    """An environment in which every variable is set."""

    def get(self, key: str, default: object = None) -> str:  # type: ignore[override]
        return "x"

    def __contains__(self, key: object) -> bool:
        return True

    def __getitem__(self, key: str) -> str:
        return "x"


def test_every_block_has_a_language_that_is_checked() -> None:
    assert not [str(block) for block in blocks() if block.language not in LANGUAGES]


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_is_a_chain(block: Block, tmp_path: Path) -> None:
    (tmp_path / "chain.yaml").write_text(block.text, encoding="utf-8")
    chain = read_chain(tmp_path / "chain.yaml")
    assert [chain.recipe(step, tmp_path) for step in chain.steps]


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_toml_is_read_by_its_reader(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for example in EXAMPLES.glob("*.toml"):
        shutil.copy(example, tmp_path)
    path = tmp_path / "block.toml"
    path.write_text(block.text, encoding="utf-8")
    values = tomllib.loads(block.text)
    if "instruction" in values or "exemplar" in values:
        assert profile.load(path).name
    elif "limit" in values:
        assert read_check(path).limits
    else:
        assert isinstance(load(Flags(config=str(path)), Environment()), Config)


@pytest.mark.parametrize("name", ["trimtab.toml", "full.toml"])
def test_an_example_configuration_loads(name: str) -> None:
    assert isinstance(load(Flags(config=str(EXAMPLES / name)), Environment()), Config)


@pytest.mark.parametrize("block", [*blocks("json"), *blocks("jsonl")], ids=str)
def test_json_is_json(block: Block) -> None:
    rows = [block.text] if block.language == "json" else block.text.splitlines()
    assert all(json.loads(row) is not None for row in rows)


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", blocks("sh"), ids=str)
def test_every_command_is_accepted(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands(block.text):
        program = Path(words[0]).name if words[0].startswith((".venv/", "/opt/")) else words[0]
        try:
            if program in CHECKS:
                CHECKS[program](words[1:])
            else:
                assert program in FOREIGN or (ROOT / words[0]).is_file(), f"{block}: what is {program!r}?"
        except SystemExit:
            pytest.fail(f"{block}: {' '.join(words)}: {capsys.readouterr().err}")


def trimtab(words: list[str]) -> None:
    name, *arguments = words
    if name.startswith("-"):
        return
    assert name in COMMANDS
    if name in ("serve", "check"):
        flags = parse(arguments)
        if flags.config is None or (ROOT / flags.config).is_file():
            config = None if flags.config is None else str(ROOT / flags.config)
            load(Flags(**{**{f: getattr(flags, f) for f in Flags.__slots__}, "config": config}), Environment())
    elif name == "train":
        train(arguments)
    else:
        parser_of(name).parse_args(arguments)


def train(arguments: list[str]) -> None:
    method, *rest = arguments
    if method == "--list":
        return
    backend = [word for word in rest if word == "--backend"]
    parsed = parser_of("train", (method, *backend)).parse_args(rest)  # LookupError for an unknown method
    recipe = getattr(parsed, "config", None)
    if method == "chain":
        if (CHAINS / f"{recipe}.yaml").is_file():
            read_chain(recipe, parsed.set)
    elif recipe:
        named = ROOT / "trainers/recipes" / f"{recipe}.yaml"
        text = (named if named.is_file() else ROOT / recipe).read_text("utf-8")
        for override in getattr(parsed, "set", None) or []:
            assert re.search(rf"^{override.partition('=')[0]}:", text, re.MULTILINE), override


def make(words: list[str]) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert not [word for word in words if "=" not in word and word not in targets]


def pip(words: list[str]) -> None:
    for word in words:
        if match := re.search(r"(?:\.|trimtab)\[([a-z,]+)\]", word):
            assert set(match[1].split(",")) <= set(PROJECT["optional-dependencies"])


def python(words: list[str]) -> None:
    if words[:1] == ["-m"]:
        assert find_spec(words[1])
    elif words and words[0].endswith(".py"):
        assert (ROOT / words[0]).is_file()


def curl(words: list[str]) -> None:
    bodies = [value for flag, value in pairwise(words) if flag in ("-d", "--data")]
    for body in bodies:
        assert isinstance(json.loads(body), Mapping)
    page = (ROOT / "docs/reference/http-api.md").read_text("utf-8")
    for word in words:
        if match := re.match(r"https?://(?:127\.0\.0\.1|localhost):8000(/[^?]*)", word):
            known = re.sub(r"\{\w+\}", "[^/]+", "|".join(re.findall(r"`[A-Z]+ (/\S*)`", page)))
            assert re.fullmatch(known, match[1]), match[1]


CHECKS = {"trimtab": trimtab, "make": make, "pip": pip, "python": python, "curl": curl}


def test_the_shell_reader_knows_pipes_comments_and_assignments() -> None:
    text = """KEY=x trimtab serve --policy "a b" > log 2>&1 &  # a comment
curl -d '{"a": 1}' \\
  URL | python -m json.tool"""
    shown = list(commands(text))
    assert ["curl", "-d", '{"a": 1}', "URL"] in shown
    assert ["python", "-m", "json.tool"] in shown
    assert shown[0][:4] == ["trimtab", "serve", "--policy", "a b"]
