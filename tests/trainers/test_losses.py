"""The preference losses against formulas worked out with mpmath, and what they want of two answers."""

import math

import pytest
import torch

from benchmarks import losses as oracle
from trainers.methods.losses import LOSSES, Pairs, Settings, log_odds

torch.set_num_threads(1)  # the tensors are tiny
OURS = [name for name, loss in LOSSES.items() if loss.of]
PAIRS = oracle.random_pairs(12, seed=5)


@pytest.mark.parametrize("name", OURS)
def test_value_and_gradient_are_the_formulas(name: str) -> None:
    value, slope, _ = oracle.errors(name, PAIRS)
    assert value < 1e-14
    assert slope < 1e-13


@pytest.mark.parametrize("name", OURS)
def test_two_answers_end_where_the_formula_is_least(name: str) -> None:
    """Left of it the gradient pulls the first answer up, right of it down."""
    want, share = float(oracle.optimum(name)[0]), float(oracle.SHARE)
    assert oracle.slope(name, want - 1e-6, share) < 0 < oracle.slope(name, want + 1e-6, share)


def test_descent_gets_there() -> None:
    assert oracle.trained("ipo", 0.8, steps=300) == pytest.approx(3, abs=0.05)


@pytest.mark.parametrize(
    ("name", "stops"),
    [("ipo", "5.00000"), ("ipo_mean", "5.00000"), ("cdpo", f"{math.log(9) / 0.1:.5f}"), ("hinge", "10.00000 and flat")],
)
def test_a_bounded_loss_stops_where_its_paper_says(name: str, stops: str) -> None:
    assert oracle.unanimous(name).startswith(stops)


@pytest.mark.parametrize("name", ["dpo", "rso", "robust", "simpo", "orpo", "odpo"])
def test_an_unbounded_loss_pulls_for_ever(name: str) -> None:
    assert oracle.unanimous(name) == "grows for ever"


def test_robust_is_dpo_on_average_over_flipped_labels() -> None:
    """(1−ε) L(Δ) + ε L(−Δ) is DPO's loss of the true label: what "unbiased" means."""
    swapped = Pairs(PAIRS.rejected, PAIRS.chosen, *lengths(), PAIRS.ref_rejected, PAIRS.ref_chosen)
    robust, dpo = LOSSES["robust"].of, LOSSES["dpo"].of
    assert robust
    assert dpo
    noisy = Settings(beta=0.1, label_smoothing=0.2)
    average = 0.8 * robust(PAIRS, noisy) + 0.2 * robust(swapped, noisy)
    assert torch.allclose(average, dpo(PAIRS, noisy), atol=1e-12)


def lengths() -> tuple[torch.Tensor, torch.Tensor]:
    return PAIRS.rejected_tokens, PAIRS.chosen_tokens


@pytest.mark.parametrize(("name", "changed"), [("cdpo", {"label_smoothing": 0.0}), ("odpo", {"alpha": 0.0})])
def test_special_cases_are_dpo(name: str, changed: dict[str, float]) -> None:
    of, dpo = LOSSES[name].of, LOSSES["dpo"].of
    assert of
    assert dpo
    settings = LOSSES[name].settings(**changed)
    assert torch.equal(of(PAIRS, settings), dpo(PAIRS, settings))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_odds_bear_certain_answers(dtype: torch.dtype) -> None:
    """ORPO divides by 1 − p: an answer of probability 1 must not make the loss or its gradient infinite."""
    mean = torch.tensor([0.0, -1e-30, -1e-12, -0.5, -0.7, -80.0], dtype=dtype, requires_grad=True)
    odds = log_odds(mean)
    odds.sum().backward()
    assert mean.grad is not None
    assert odds.isfinite().all()
    assert mean.grad.isfinite().all()
    assert odds[2].item() == pytest.approx(12 * math.log(10), rel=1e-6)
    assert odds[5].item() == pytest.approx(-80, rel=1e-6)


def test_a_setting_that_the_loss_would_ignore_is_refused() -> None:
    with pytest.raises(ValueError, match=r"does not read label_smoothing .*cdpo, robust"):
        LOSSES["dpo"].settings(label_smoothing=0.1)
    assert LOSSES["simpo"].settings(margin=0.3) == Settings(beta=2.0, margin=0.3)


@pytest.mark.parametrize("name", ["dpo", "odpo"])
def test_what_a_loss_lacks_is_named(name: str) -> None:
    of = LOSSES[name].of
    assert of
    alone = Pairs(PAIRS.chosen, PAIRS.rejected, PAIRS.chosen_tokens, PAIRS.rejected_tokens)
    with pytest.raises(ValueError, match="needs"):
        of(alone, LOSSES[name].settings())


def test_normalised_losses_ignore_the_length_of_an_answer_said_twice() -> None:
    """Twice the tokens at the same log-probability each: only sums notice."""
    twice = Pairs(*(2 * getattr(PAIRS, name) for name in oracle.NAMES[:6]), PAIRS.gap)
    for name in OURS:
        of, settings = LOSSES[name].of, LOSSES[name].settings()
        assert of
        assert torch.allclose(of(PAIRS, settings), of(twice, settings), atol=1e-9) == LOSSES[name].normalised
