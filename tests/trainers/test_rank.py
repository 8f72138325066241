"""Lists of scored answers: the losses by hand, two answers are the pair, and the trainer by any cut of a step."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from tests.trainers.toy import arguments, logged, pair_rows, run_and_kill, same_weights, write
from trainers.data.jsonl import DataError
from trainers.data.layouts import read_rows
from trainers.methods import rank
from trainers.methods.listwise import LIST_LOSSES, Lists, listmle, over_pairs, rrhf
from trainers.methods.losses import LOSSES, Pairs, Settings

SETTINGS = Settings(beta=0.3, margin=0.5, label_smoothing=0.1, alpha=0.7)


def draw(lists: int, answers: int, seed: int = 0) -> Lists:
    torch.manual_seed(seed)
    logps = -torch.rand(lists, answers, dtype=torch.float64) * 30 - 1
    tokens = torch.randint(1, 12, (lists, answers)).double()
    scores = torch.stack([torch.randperm(answers).double() for _ in range(lists)])
    there = torch.ones(lists, answers, dtype=torch.bool)
    return Lists(logps.requires_grad_(), tokens, scores, there, logps.detach() - torch.rand_like(logps))


def sorted_pairs(lists: Lists) -> Pairs:
    order = lists.scores.argsort(dim=1, descending=True)
    two = [values.gather(1, order) for values in (lists.logps, lists.tokens, lists.reference, lists.scores)]  # type: ignore[union-attr]
    (c, r), (ct, rt), (rc, rr), (sc, sr) = (values.unbind(1) for values in two)
    return Pairs(c, r, ct, rt, rc, rr, sc - sr)


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.of is not None])
def test_two_answers_are_the_pair_to_the_last_digit(name: str) -> None:
    lists = draw(7, 2)
    of = LOSSES[name].of
    assert of is not None
    found, wanted = over_pairs(of, lists, SETTINGS), of(sorted_pairs(lists), SETTINGS)
    assert torch.equal(found, wanted)
    (gradient,) = torch.autograd.grad(found.sum(), lists.logps, retain_graph=True)
    (by_hand,) = torch.autograd.grad(wanted.sum(), lists.logps)
    assert torch.equal(gradient, by_hand)


def test_listmle_of_two_answers_is_simpo_without_a_margin_and_of_more_plackett_luce() -> None:
    two = draw(5, 2)
    simpo = LOSSES["simpo"].of
    assert simpo is not None
    assert torch.allclose(listmle(two, Settings(beta=0.3)), simpo(sorted_pairs(two), Settings(beta=0.3)), atol=1e-12)
    more = draw(4, 5)
    for row in range(4):
        left = (0.3 * more.logps[row] / more.tokens[row])[more.scores[row].argsort(descending=True)]
        by_hand = -torch.stack([left[k:].log_softmax(0)[0] for k in range(5)]).sum()
        assert listmle(more, Settings(beta=0.3))[row].item() == pytest.approx(by_hand.item(), abs=1e-12)


def test_rrhf_by_hand_and_the_right_order_leaves_the_nlls_gradient_alone() -> None:
    lists = draw(6, 4)
    means = (lists.logps / lists.tokens).tolist()
    for row in range(6):
        score = lists.scores[row].tolist()
        by_hand = sum(
            max(0.0, means[row][j] - means[row][i]) for i in range(4) for j in range(4) if score[i] > score[j]
        )
        assert rrhf(lists, SETTINGS)[row].item() == pytest.approx(by_hand, abs=1e-12)
    right = Lists(lists.logps, lists.tokens, (lists.logps / lists.tokens).detach(), lists.there)
    found = rrhf(right, SETTINGS)
    assert found.abs().max() == 0
    nll = -lists.logps.gather(1, right.best[:, None])
    (whole,) = torch.autograd.grad((found + nll.squeeze(1)).sum(), lists.logps)
    assert torch.equal(whole, -torch.nn.functional.one_hot(right.best, 4).double())


@pytest.mark.parametrize("name", LIST_LOSSES)
def test_an_answer_that_is_not_there_counts_nothing(name: str) -> None:
    lists = draw(3, 3)
    settings = Settings(**LIST_LOSSES[name].reads)
    more = torch.tensor([[-500.0]] * 3, dtype=torch.float64)
    padded = Lists(
        torch.cat([lists.logps, more], 1), torch.cat([lists.tokens, torch.ones_like(more)], 1),
        torch.cat([lists.scores, 0 * more], 1), torch.cat([lists.there, torch.zeros(3, 1, dtype=torch.bool)], 1),
        None if lists.reference is None else torch.cat([lists.reference, more], 1),
    )  # fmt: skip
    assert torch.allclose(LIST_LOSSES[name].of(padded, settings), LIST_LOSSES[name].of(lists, settings), atol=1e-12)


def test_equal_scores_compare_nothing() -> None:
    lists = draw(2, 3)
    flat = Lists(lists.logps, lists.tokens, torch.zeros_like(lists.scores), lists.there, lists.reference)
    assert over_pairs(lambda pairs, _: -logsigmoid(pairs.chosen - pairs.rejected), flat, SETTINGS).tolist() == [0, 0]
    assert rrhf(flat, SETTINGS).tolist() == [0, 0]


# ---------------------------------------------------------------- the trainer


def list_rows(number: int = 24) -> list[dict[str, Any]]:
    rows = []
    for index, row in enumerate(pair_rows(number)):
        answers = [row["chosen"], row["rejected"], "a dog", "the mat"][: 2 + index % 3]
        rows.append({"prompt": row["prompt"], "answers": answers, "scores": [3, 1, 2, 0][: len(answers)]})
    return rows


@pytest.mark.slow
def test_it_learns_the_order_and_a_killed_run_resumes_to_the_same_weights(toy: str, tmp_path: Path) -> None:
    data = write(tmp_path / "d.jsonl", list_rows())
    keys: dict[str, Any] = {"model": toy, "train": str(data), "steps": 16, "learning_rate": 3e-3, "max_length": 64}
    assert rank.main(arguments(tmp_path / "whole", **keys)) == 0
    run = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert run["heldout"]["loss"] < run["heldout_before"]["loss"]
    assert run["heldout"]["accuracy"] >= run["heldout_before"]["accuracy"]
    assert run["loss"]["name"] == "rrhf"
    line = arguments(tmp_path / "killed", **keys)
    run_and_kill("rank", tmp_path / "killed", line)
    assert rank.main(line) == 0
    assert same_weights(tmp_path / "whole" / "final", tmp_path / "killed" / "final")


@pytest.mark.parametrize("loss", ["rrhf", "orpo", "sppo"])
def test_the_gradient_does_not_depend_on_how_a_step_is_cut(toy: str, tmp_path: Path, loss: str) -> None:
    data = write(tmp_path / "d.jsonl", list_rows())
    norms, losses = {}, {}
    for micro in (1, 4):
        out = tmp_path / str(micro)
        keys: dict[str, Any] = {"model": toy, "train": str(data), "steps": 1, "micro_batch": micro, "loss": loss}
        assert rank.main(arguments(out, **keys, heldout_fraction=0.2, max_grad_norm=1e9, save_every=1)) == 0
        [norms[micro]] = logged(out, "grad_norm")
        losses[micro] = json.loads((out / "run.json").read_text())["heldout_before"]["loss"]
    assert norms[1] == pytest.approx(norms[4], rel=1e-4)
    assert losses[1] == pytest.approx(losses[4], rel=1e-5)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "answers": ["b"], "scores": [1]}, "must be as many, and two or more: 1 and 1"),
        ({"prompt": "a", "answers": ["b", "c"], "scores": [1]}, "must be as many, and two or more: 2 and 1"),
        ({"prompt": "a", "answers": ["b", "c"], "scores": [1, float("nan")]}, '"scores" must be a finite number'),
        ({"prompt": "a", "answers": "b"}, "the columns are prompt, answers; wanted for ranking rows"),
    ],
)
def test_a_list_that_is_none_is_refused_with_its_row(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"d.jsonl, line 1: .*{message}"):
        read_rows(write(tmp_path / "d.jsonl", [row]), "ranking")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"loss": "dpo"}, "no list loss 'dpo'; list losses: rrhf, listmle, sppo, slic, simpo, orpo"),
        ({"beta": 0.1}, "loss rrhf does not read beta"),
    ],
)
def test_a_loss_that_cannot_be_meant_is_refused(
    toy: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], keys: dict[str, Any], message: str
) -> None:
    assert rank.main(arguments(tmp_path / "out", model=toy, train=str(pairs), **keys)) == 2
    assert message in capsys.readouterr().err
