"""`trimtab train METHOD`: every method and every loss is found by its name."""

import importlib
from pathlib import Path

import pytest

from tests.trainers.toy import arguments
from trainers import command
from trainers.methods.losses import LOSSES


@pytest.mark.parametrize("method", command.METHODS)
def test_every_method_has_a_command(method: str) -> None:
    module, _, function = command.METHODS[method].entry.partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_the_list_names_papers_and_formulas(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    shown = capsys.readouterr().out
    for name, method in command.METHODS.items():
        assert f"\n{name:<8} {method.makes}" in "\n" + shown
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
