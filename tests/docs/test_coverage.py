"""The documentation and the code say the same: what exists is documented."""

from __future__ import annotations

import re
import subprocess
import tomllib
from dataclasses import fields

import pytest
from blocks import EXAMPLES, PAGES, ROOT

from prompt_opt import profile
from prompt_opt.pipeline import STAGES
from prompt_opt.stages import bpo, opo
from serve.api.routes import RELAYED
from serve.cli.command import COMMANDS
from serve.config import (
    RIGHTS,
    AccountSpec,
    Alias,
    Allowance,
    Engine,
    Flags,
    IndexSpec,
    Key,
    Limits,
    Marking,
    RewriterSpec,
    Server,
)
from serve.engine.features import FEATURES
from trainers.methods.table import METHODS

README = (ROOT / "README.md").read_text("utf-8")
FULL = (EXAMPLES / "full.toml").read_text("utf-8")
DOCS = "\n".join(page.read_text("utf-8") for page in PAGES)


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text("utf-8")


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 200


SETTINGS = [
    *(Server, Engine, Key, Alias, IndexSpec, RewriterSpec, Limits, Allowance, AccountSpec, Marking),
    *(opo.Options, bpo.Options),
]


@pytest.mark.parametrize("cls", SETTINGS)
def test_every_setting_is_in_the_full_example(cls: type) -> None:
    missing = [f.name for f in fields(cls) if f.name != "name" and not re.search(rf"\b{f.name}( = |[.\]])", FULL)]
    assert not missing


def test_every_setting_has_a_meaning() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| *(\S?)[^|]*\|$", page("reference/configuration.md"), re.MULTILINE)
    assert len(rows) > 50
    assert not [name for name, meaning in rows if not meaning]


def test_every_default_of_the_server_is_the_one_shown() -> None:
    shown = {k: tuple(v) if isinstance(v, list) else v for k, v in tomllib.loads(FULL)["server"].items()}
    defaults = {f.name: f.default for f in fields(Server)}
    assert {k: v for k, v in shown.items() if k != "policy"} == {k: v for k, v in defaults.items() if k != "policy"}


@pytest.mark.parametrize("name", [*STAGES, *FEATURES, *profile.shipped(), *RIGHTS, *METHODS])
def test_every_stage_feature_profile_right_and_method_is_named(name: str) -> None:
    assert f"`{name}`" in DOCS


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_has_a_row(name: str) -> None:
    assert f"| `{name}` |" in page("guides/policies.md")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_row(name: str) -> None:
    assert f"| `trimtab {name}`" in page("reference/commands.md")


def test_every_flag_of_serve_is_named() -> None:
    missing = [f.name for f in fields(Flags) if f"`--{f.name.replace('_', '-')} " not in page("reference/commands.md")]
    assert not missing


def test_every_folder_of_the_packages_is_in_the_tree() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = listed.splitlines()
    tops = {line.split("/")[0] + ("/" if "/" in line else "") for line in files} - {".gitignore", ".gitattributes"}
    rooms = {
        line.split("/")[1] + "/"
        for line in files
        if re.match(r"(serve|prompt_opt|retrieval|trainers)/\w+/", line) and line.endswith(".py")
    }
    tree = page("how-it-works/architecture.md")
    assert not [name for name in sorted(tops | rooms) if name not in tree]


@pytest.mark.parametrize("path", RELAYED)
def test_every_relayed_path_is_named(path: str) -> None:
    assert f"`POST {path}`" in page("reference/http-api.md")


def test_every_benchmark_has_a_row() -> None:
    scripts = [p.name for p in (ROOT / "benchmarks").glob("*.py") if "def main" in p.read_text("utf-8")]
    text = page("benchmarks.md")
    assert not [
        name
        for name in scripts
        if f"`{name}`" not in text and f"benchmarks/{name}" not in text and f"benchmarks.{name[:-3]}" not in text
    ]
