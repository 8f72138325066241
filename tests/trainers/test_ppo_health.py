"""The warnings of a PPO run, on curves in which one sickness is planted, and on a healthy one."""

from collections.abc import Callable
from typing import Any

import pytest

from trainers.ppo.health import WINDOW, sicknesses

STEPS = 3 * WINDOW


def log(**planted: Callable[[float], float]) -> list[dict[str, float]]:
    """A healthy run's entries, but for what is planted: each a function of how far the run is, from 0 to 1."""
    healthy: dict[str, Callable[[float], float]] = {
        "score": lambda done: done, "tokens": lambda done: 40 + 10 * done, "entropy": lambda done: 3 - done,
        "kl": lambda done: 4 * done, "explained_variance": lambda done: 0.6 * done,
        "score_length_correlation": lambda _: 0.1,
    }  # fmt: skip
    curves = healthy | planted
    return [{"step": i + 1, **{name: curve(i / STEPS) for name, curve in curves.items()}} for i in range(STEPS)]


def found(entries: list[dict[str, float]], target: float = 0.0, warmup: int = 0) -> dict[str, str]:
    return dict(sicknesses(entries, target, warmup))


def test_a_healthy_run_is_not_warned_of() -> None:
    assert found(log()) == {}
    assert found(log(), target=4.0) == {}
    assert found([]) == {}


@pytest.mark.parametrize(
    ("planted", "name", "words"),
    [
        (
            {"tokens": lambda done: 40 + 100 * done, "score_length_correlation": lambda _: 0.8},
            "length",
            "won by length",
        ),
        ({"entropy": lambda done: 3 * (1 - done) ** 4}, "entropy", "nearly the same every time"),
        ({"kl": lambda done: 100 * done**2}, "kl", "and rises: the policy runs away"),
        ({"explained_variance": lambda _: -0.5}, "critic", "explained variance -0.50 over 8 entries"),
    ],
)
def test_each_sickness_is_named_by_itself(planted: dict[str, Any], name: str, words: str) -> None:
    warnings = found(log(**planted))
    assert list(warnings) == [name]
    assert words in warnings[name]


def test_a_target_bounds_the_kl_and_warm_up_excuses_the_critic() -> None:
    assert "against a target of 1" in found(log(), target=1.0)["kl"]
    assert found(log(explained_variance=lambda _: -0.5), warmup=STEPS) == {}
    assert found(log(tokens=lambda done: 40 + 100 * done)) == {}  # longer, but scores do not follow length
    assert found(log(entropy=lambda _: 0.0)[: 2 * WINDOW - 1]) == {}
