"""`trimtab train METHOD`: every method and every loss is found by its name."""

import importlib
from dataclasses import is_dataclass
from pathlib import Path

import pytest

from tests.trainers.toy import arguments
from trainers import command
from trainers.export.served import Served
from trainers.methods.losses import LOSSES
from trainers.methods.table import METHODS, resolve


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_command_a_recipe_and_a_checked_export(method: str) -> None:
    row = METHODS[method]
    module, _, function = row.entry.partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    assert is_dataclass(row.recipe)
    assert isinstance(resolve(row.export), Served)


@pytest.mark.parametrize("method", [*(name for name, row in METHODS.items() if not row.several), "check"])
def test_what_runs_in_one_process_refuses_a_launch(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([method, "--launch", "two_cpus"]) == 2
    assert f"{method} runs in one process" in capsys.readouterr().err


def test_an_unknown_method_is_refused_with_the_names_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["dreaming"]) == 2
    assert f"no method 'dreaming'; methods: {', '.join([*METHODS, 'chain', 'check'])}" in capsys.readouterr().err


def test_the_list_names_papers_and_formulas(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    shown = capsys.readouterr().out
    for name, method in METHODS.items():
        assert f"\n{name:<8} {method.title}" in "\n" + shown
        assert method.paper in shown
        assert method.formula in shown
    for name, loss in LOSSES.items():
        assert f"  {name:<14} {loss.paper}" in shown


def test_a_losss_name_is_pair_with_that_loss(
    toy: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only odpo asks for scores, and the pairs have none."""
    assert command.main(["odpo", *arguments(tmp_path / "out", model=toy, train=str(pairs))]) == 2
    assert "odpo needs score_chosen and score_rejected, or margin" in capsys.readouterr().err
