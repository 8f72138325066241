"""The README and the code say the same: what exists is in it, and what it shows works."""

import re
import subprocess
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from prompt_opt import profile
from prompt_opt.pipeline import STAGES
from prompt_opt.stages import bpo, opo
from serve.api.routes import RELAYED
from serve.cli.command import COMMANDS
from serve.config import RIGHTS, Alias, Config, Engine, Flags, IndexSpec, Key, RewriterSpec, Server
from serve.configure.flags import parse
from serve.configure.reader import load
from serve.engine.live import FEATURES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
EXAMPLE = next(b for b in re.findall(r"```toml\n(.*?)```", README, re.DOTALL) if "[server]" in b)


@pytest.mark.parametrize("cls", [Server, Engine, Key, Alias, IndexSpec, RewriterSpec, opo.Options, bpo.Options])
def test_every_setting_is_in_the_example(cls: type) -> None:
    missing = [f.name for f in fields(cls) if f.name != "name" and not re.search(rf"\b{f.name} = ", EXAMPLE)]
    assert not missing


def test_the_example_is_a_valid_configuration(tmp_path: Path) -> None:
    secret = "a" * 64
    for name in ("tokenizer.json", "house.toml"):
        (tmp_path / name).write_text('name = "house"\n')
    path = tmp_path / "trimtab.toml"
    # An engine is a URL, a launcher or a command: the example shows all, a file has one.
    text = EXAMPLE.replace('sha256 = "…"', f'sha256 = "{secret}"')
    text = re.sub(r"^(tokenizer|url = \"\").*\n", "", text, flags=re.MULTILINE)
    path.write_text(text, encoding="utf-8")
    config = load(Flags(config=str(path)), {"OPENAI_API_KEY": "x"})
    assert config.server.policy == "careful"
    assert config.keys[0].rights == RIGHTS


def test_every_default_of_the_server_is_the_one_shown() -> None:
    shown = tomllib.loads(EXAMPLE)["server"]
    defaults = {f.name: f.default for f in fields(Server)}
    assert {k: v for k, v in shown.items() if k != "policy"} == {k: v for k, v in defaults.items() if k != "policy"}


@pytest.mark.parametrize("name", [*STAGES, *FEATURES, *profile.shipped(), *RIGHTS])
def test_every_stage_feature_profile_and_right_is_named(name: str) -> None:
    assert f"`{name}`" in README or f'"{name}"' in README


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_row(name: str) -> None:
    assert f"| `trimtab {name}`" in README


def test_every_flag_of_serve_is_named() -> None:
    missing = [f.name for f in fields(Flags) if f"`--{f.name.replace('_', '-')}`" not in README]
    assert not missing


def test_every_top_level_file_is_in_the_tree() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tops = {line.split("/")[0] + ("/" if "/" in line else "") for line in listed.splitlines()} - {".gitignore"}
    tree = README[README.index("## The files") : README.index("### Add a stage")]
    assert not [top for top in tops if top not in tree]


def test_every_module_of_serve_is_in_the_tree() -> None:
    tree = README[README.index("## The files") : README.index("### Add a stage")]
    modules = [p.name for p in (ROOT / "serve").glob("*.py") if p.name != "__init__.py"]
    assert not [name for name in modules if name not in tree]


@pytest.mark.parametrize("path", [p for p in RELAYED if "/audio/" not in p and "/images/" not in p])
def test_every_relayed_path_is_named(path: str) -> None:
    assert f"`{path}`" in README or f"`POST {path}`" in README


def test_every_benchmark_has_a_row() -> None:
    scripts = [p.name for p in (ROOT / "benchmarks").glob("*.py") if "def main" in p.read_text("utf-8")]
    assert not [
        name
        for name in scripts
        if f"`{name}`" not in README and f"benchmarks/{name}" not in README and f"benchmarks.{name[:-3]}" not in README
    ]


@pytest.mark.parametrize(
    "line", re.findall(r"^trimtab serve (--upstream.*?|--model.*?)(?:\s{2,}#.*)?$", README, re.MULTILINE)
)
def test_every_shown_command_line_is_accepted(line: str) -> None:
    flags = parse(line.split())
    assert isinstance(load(flags, {"OPENAI_API_KEY": "x"}), Config)


def test_every_linked_file_exists() -> None:
    links = [target for target in re.findall(r"\]\(([^)]+)\)", README) if not target.startswith("http")]
    assert links
    assert not [target for target in links if not (ROOT / target).exists()]
