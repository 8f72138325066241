"""A stage owns its settings: the configuration fills and checks them without knowing the stage."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from prompt_opt import pipeline
from prompt_opt.core import Advice, Chat, Context, Policy, Supplies
from prompt_opt.stages.check import Facts, SettingError
from serve.cli import explain
from serve.cli.command import check
from serve.config import ConfigError, Flags
from serve.configure.reader import load


@dataclass(frozen=True, slots=True)
class Options:
    """Settings that all have a default."""

    text: str = "Be brief."
    times: int = 1


class Toy:
    """Adds an instruction."""

    name, instant, required = "toy", True, False

    def __init__(self, policy: Policy, supplies: Supplies) -> None:
        self._options: Options = policy.options["toy"]

    async def __call__(self, chat: Chat, ctx: Context) -> Advice:
        return Advice(" ".join([self._options.text] * self._options.times))

    async def constant(self, ctx: Context) -> Advice | None:
        return None


def _check(options: Options, policy: Policy, facts: Facts) -> None:
    if options.times < 1:
        raise SettingError("times", "must be at least 1")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    module: Any = types.ModuleType("toy_stage")
    module.Options, module.Toy, module.check = Options, Toy, _check
    monkeypatch.setitem(sys.modules, "toy_stage", module)
    monkeypatch.setattr(pipeline, "STAGES", {**pipeline.STAGES, "toy": "toy_stage:Toy"})
    monkeypatch.setattr("serve.configure.policies.STAGES", pipeline.STAGES)
    path = tmp_path / "trimtab.toml"
    path.write_text('[engine.main]\nurl = "http://x"\n[policy.a]\nstages = ["toy"]\n')
    return path


def test_settings_with_defaults_are_filled_without_a_table(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load(Flags(config=str(file)), {})
    assert config.policies["a"].options == {"toy": Options()}
    assert pipeline.build(config.policies["a"], Supplies()), "a worker builds all stages when it starts"
    assert check(["--config", str(file)]) == 0
    asked = tmp_path / "chat.json"
    asked.write_text('[{"role": "user", "content": "Why?"}]')
    assert explain.main(["--config", str(file), "--policy", "a", "--chat", str(asked)]) == 0
    assert "Be brief." in capsys.readouterr().out


def test_a_stage_checks_its_own_settings_and_the_line_is_told(file: Path) -> None:
    with file.open("a") as more:
        more.write("[policy.a.toy]\ntimes = 0\n")
    with pytest.raises(ConfigError, match=r"trimtab.toml:6: policy.a.toy.times: must be at least 1"):
        load(Flags(config=str(file)), {})
