"""The selectors by their known answers: what each would choose of known distributions."""

import math
from collections import Counter
from random import Random
from typing import Any

import pytest
import torch

from trainers.data.affix import affixed
from trainers.data.jsonl import DataError
from trainers.methods.listwise import LIST_LOSSES, Lists
from trainers.methods.losses import LOSSES, Pairs, Settings
from trainers.methods.table import METHODS, resolve
from trainers.rounds.group import Choice, Group, Scored
from trainers.rounds.select.critique import finds, quotations
from trainers.rounds.select.iterative import ends
from trainers.rounds.select.raft import best
from trainers.rounds.select.rlcd import contrast
from trainers.rounds.select.rlp import agreed, clusters, same_text
from trainers.rounds.select.rrhf import ranked
from trainers.rounds.select.rso import accepted, pairs
from trainers.rounds.select.spin import own
from trainers.rounds.select.sppo import win_rates
from trainers.rounds.selectors import SELECTORS

ANSWERS = "abcdef"
POLICY = [0.30, 0.25, 0.20, 0.12, 0.08, 0.05]
REWARD = [0.0, 1.0, 0.3, 2.0, 1.5, 0.7]
CHI2_999 = 20.515  # five degrees of freedom


def sampled(number: int, draw: Random) -> tuple[Scored, ...]:
    places = draw.choices(range(6), POLICY, k=number)
    return tuple(Scored(ANSWERS[at], REWARD[at]) for at in places)


def chi_square(counts: Counter[str], wanted: list[float]) -> float:
    total, whole = sum(counts.values()), sum(wanted)
    expected = [total * part / whole for part in wanted]
    return sum((counts[answer] - e) ** 2 / e for answer, e in zip(ANSWERS, expected, strict=True))


@pytest.mark.parametrize("name", SELECTORS)
def test_every_selector_is_found_and_trains_a_method_of_the_table(name: str) -> None:
    row = SELECTORS[name]
    assert callable(resolve(row.of))
    assert row.settings.keys() <= set(METHODS[row.trains].recipe.__dataclass_fields__)
    assert name not in LOSSES
    assert name not in METHODS


# ---------------------------------------------------------------- RSO


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_rso_accepts_samples_of_the_policy_tilted_by_the_reward(beta: float) -> None:
    """χ² against π·e^(r/β) on six answers; π itself is rejected by the same statistic."""
    draw = Random(7)
    counts: Counter[str] = Counter()
    for _ in range(400):
        samples = sampled(64, draw)
        if any(scored.score == max(REWARD) for scored in samples):  # r_max is among the samples
            counts.update(scored.text for scored in accepted(samples, beta, draw))
    tilted = [p * math.exp(r / beta) for p, r in zip(POLICY, REWARD, strict=True)]
    assert sum(counts.values()) > 2000
    assert chi_square(counts, tilted) < CHI2_999
    assert chi_square(counts, POLICY) > 5 * CHI2_999


def test_rso_pairs_what_was_accepted_by_score() -> None:
    group = Group("p", sampled(64, Random(1)))
    found = pairs(group, Choice(keep=8, score_beta=2.0), Random(2))
    assert 1 <= len(found) <= 4
    assert all(row["score_chosen"] > row["score_rejected"] for row in found)
    assert all(REWARD[ANSWERS.index(row["chosen"])] == row["score_chosen"] for row in found)
    assert pairs(group, Choice(keep=8, least_gap=9.0), Random(2)) == []
    assert pairs(Group("p", ()), Choice(), Random(2)) == []


# ---------------------------------------------------------------- RAFT


def chosen(number: int, rounds: int = 6000) -> Counter[str]:
    draw = Random(3)
    return Counter(best(Group("p", sampled(number, draw)), Choice(), draw)[0]["completion"] for _ in range(rounds))


def test_raft_with_one_sample_learns_the_policy_and_so_leaves_the_expected_logits() -> None:
    assert chi_square(chosen(1), POLICY) < CHI2_999
    logits = torch.tensor(POLICY, dtype=torch.float64).log().requires_grad_()
    # The expected gradient of sft on samples of π: Σ_y π(y) ∇ −log π(y).
    expected = -(torch.tensor(POLICY, dtype=torch.float64) * logits.log_softmax(0)).sum()
    (gradient,) = torch.autograd.grad(expected, logits)
    assert gradient.abs().max() < 1e-12


def test_raft_of_k_is_the_distribution_of_the_maximum_and_of_many_the_argmax() -> None:
    order = sorted(range(6), key=lambda at: REWARD[at])
    below = [sum(POLICY[other] for other in order[:rank]) for rank in range(7)]
    wanted = [0.0] * 6
    for rank, at in enumerate(order):
        wanted[at] = below[rank + 1] ** 4 - below[rank] ** 4
    counts = chosen(4)
    assert chi_square(counts, [max(part, 1e-12) for part in wanted]) < CHI2_999
    many = chosen(128, 500)
    assert many["d"] / 500 > 0.99  # the argmax of the reward


def test_raft_draws_among_equals() -> None:
    group = Group("p", tuple(Scored(text, 1.0) for text in "xy"))
    assert {best(group, Choice(), Random(seed))[0]["completion"] for seed in range(20)} == {"x", "y"}


# ---------------------------------------------------------------- SPIN


def test_spin_has_no_expected_gradient_where_the_policy_is_the_data() -> None:
    """Over all pairs (data's answer, own answer), both of π: Σ π_i π_j ∇ loss(i, j) = 0; not so for other data."""
    policy = torch.tensor(POLICY, dtype=torch.float64)

    def expected(data: torch.Tensor) -> torch.Tensor:
        logits = policy.log().requires_grad_()
        logps, ref = logits.log_softmax(0), policy.log()
        i, j = torch.cartesian_prod(torch.arange(6), torch.arange(6)).T
        one = torch.ones(36, dtype=torch.float64)
        dpo = LOSSES["dpo"].of
        assert dpo is not None
        losses = dpo(Pairs(logps[i], logps[j], one, one, ref[i], ref[j]), Settings(beta=0.1))
        (gradient,) = torch.autograd.grad((data[i] * policy[j] * losses).sum(), logits)
        return gradient

    assert expected(policy).abs().max() < 1e-15
    assert expected(policy.flip(0)).abs().max() > 1e-3


def test_spin_pairs_the_datas_answer_with_each_different_sample() -> None:
    group = Group("p", tuple(map(Scored, ("good", "bad", "bad", " good "))), gold="good")
    assert own(group, Choice(), Random(0)) == [{"prompt": "p", "chosen": "good", "rejected": "bad"}]
    turns: list[dict[str, str]] = [{"role": "user", "content": "p"}]
    said = [{"role": "assistant", "content": "good"}]
    [row] = own(Group(turns, (Scored("bad"),), gold=said), Choice(), Random(0))
    assert row == {"prompt": turns, "chosen": said, "rejected": [{"role": "assistant", "content": "bad"}]}


# ---------------------------------------------------------------- RLCD


def test_rlcd_of_equal_variants_carries_no_signal_and_of_different_ones_does() -> None:
    """A perfect reward ranks pairs of p₊ = p₋ right half of the time, within five standard deviations."""
    draw = Random(11)

    def accuracy(tilt: float) -> tuple[float, int]:
        better = [p * math.exp(tilt * r) for p, r in zip(POLICY, REWARD, strict=True)]
        hits, number = 0.0, 0
        for _ in range(500):
            good = tuple(Scored(ANSWERS[at]) for at in draw.choices(range(6), better, k=8))
            for row in contrast(Group("p", good, others=sampled(8, draw)), Choice(), draw):
                assert row["prompt"] == "p"
                hits += REWARD[ANSWERS.index(row["chosen"])] > REWARD[ANSWERS.index(row["rejected"])]
                number += 1
        return hits / number, number

    equal, number = accuracy(0.0)
    assert abs(equal - 0.5) < 5 * math.sqrt(0.25 / number)
    assert accuracy(2.0)[0] > 0.75


def test_rlp_makes_exactly_the_pairs_of_hand_made_clusters() -> None:
    """Five of ten say Paris in three spellings; the best of them wins against the worst of the others."""
    said = [("Paris.", 1), ("paris", 3), ("PARIS!", 2), ("Paris", 0), ("paris.", 1),
            ("Lyon", 2), ("lyon.", 5), ("Rome", 1), ("Bonn", 4), ("Nice", 3)]  # fmt: skip
    samples = tuple(Scored(text, score) for text, score in said)
    assert [[one.text for one in cluster] for cluster in clusters(samples, same_text)] == [
        ["Paris.", "paris", "PARIS!", "Paris", "paris."], ["Lyon", "lyon."], ["Rome"], ["Bonn"], ["Nice"],
    ]  # fmt: skip
    assert agreed(Group("p", samples), Choice(), Random(0)) == [{"prompt": "p", "chosen": "paris", "rejected": "Rome"}]
    assert agreed(Group("p", samples), Choice(agreement=0.6), Random(0)) == []
    assert agreed(Group("p", samples[:5]), Choice(), Random(0)) == []  # nothing disagrees
    one_way = Choice(same=lambda one, other: len(one) <= len(other))  # entails only in one direction
    assert agreed(Group("p", samples), one_way, Random(0)) == []


def test_an_affix_stands_around_the_last_turn_only() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert affixed("c", "Well: {prompt}") == "Well: c"
    assert affixed(turns, "Well: {prompt}!") == [*turns[:2], {"role": "user", "content": "Well: c!"}]


# ---------------------------------------------------------------- critics

QUESTION = "Question: why is it cold in winter?\nAnswer: The sun is  closer in Winter, so days are short.\nFlaws?"
GOLD = 'It is wrong that "the sun is closer in winter".'


def test_a_critic_learns_the_critique_that_finds_the_planted_flaw_with_the_fewest_nitpicks() -> None:
    picky = 'The passage "sun is closer in winter" is wrong, "short" is vague, and "autumn" is never said.'
    exact, praise = "“The sun is closer in winter” is wrong.", 'All of it is true, "so days are short" too.'
    group = Group(QUESTION, tuple(map(Scored, ("Nothing is wrong.", picky, praise, exact))), GOLD)
    assert finds(group, Choice(), Random(0)) == [{"prompt": QUESTION, "chosen": exact, "rejected": praise}]
    liked = Scored(exact, 1.0), Scored(exact + " Sure.", 2.0), Scored("No.", 2.0), Scored("Hm.")
    [row] = finds(Group(QUESTION, liked, GOLD), Choice(), Random(0))
    assert (row["chosen"], row["rejected"]) == (exact + " Sure.", "Hm.")


def test_a_critic_learns_from_the_datas_own_critique_until_it_finds_a_flaw_itself() -> None:
    turns = [{"role": "user", "content": QUESTION}]
    gold = [{"role": "assistant", "content": GOLD}]
    everything = 'Wrong: "The sun is closer in winter, so days are short. Flaws? Question: why is it cold?"'
    [row] = finds(Group(turns, (Scored("Fine."), Scored(everything)), gold), Choice(), Random(0))
    assert (row["chosen"], row["rejected"][0]["content"]) == (gold, everything)  # all that there is names no flaw
    assert finds(Group(QUESTION, (Scored(GOLD),), GOLD), Choice(), Random(0)) == []  # nothing missed it
    assert quotations('`a  B` and «c», not "d\ne"') == {"a b", "c"}
    with pytest.raises(DataError, match="quotes no passage of its prompt"):
        finds(Group(QUESTION, (Scored("x"),), 'It is "too hot".'), Choice(), Random(0))


# ---------------------------------------------------------------- lists and ends


def test_rrhf_keeps_the_different_answers_with_their_scores() -> None:
    group = Group("p", (Scored("a", 1), Scored("b", 2), Scored("a", 1)))
    assert ranked(group, Choice(), Random(0)) == [{"prompt": "p", "answers": ["a", "b"], "scores": [1, 2]}]
    assert ranked(Group("p", (Scored("a", 1), Scored("b", 1))), Choice(), Random(0)) == []


def test_the_ends_are_the_planted_pair() -> None:
    group = Group("p", (Scored("mid", 2), Scored("low", 1), Scored("high", 3)))
    [row] = ends(group, Choice(), Random(0))
    assert (row["chosen"], row["rejected"]) == ("high", "low")
    assert ends(group, Choice(least_gap=2.0), Random(0)) == []
    assert ends(Group("p", (Scored("a", 1), Scored("b", 1))), Choice(), Random(0)) == []


def test_iterative_dpo_with_the_true_preferences_reaches_the_optimum_of_the_bandit() -> None:
    """π* ∝ π_ref·e^(r/β): pairs of π_t, labelled by Bradley-Terry chances of r, and the reference stays."""
    policy = torch.tensor(POLICY, dtype=torch.float64)
    reward, beta = torch.tensor(REWARD, dtype=torch.float64), 0.7
    logits = policy.log().clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.05)
    i, j = torch.cartesian_prod(torch.arange(6), torch.arange(6)).T
    one = torch.ones(36, dtype=torch.float64)
    dpo: Any = LOSSES["dpo"].of
    for _ in range(400):  # rounds
        logps = logits.log_softmax(0)
        seen = (logps[i] + logps[j]).exp().detach() * torch.sigmoid(reward[i] - reward[j])
        losses = dpo(Pairs(logps[i], logps[j], one, one, policy.log()[i], policy.log()[j]), Settings(beta=beta))
        optimizer.zero_grad()
        (seen * losses).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    optimum = (policy.log() + reward / beta).log_softmax(0)
    divergence = (logits.log_softmax(0).exp() * (logits.log_softmax(0) - optimum)).sum()
    assert divergence.item() < 1e-4


# ---------------------------------------------------------------- SPPO


def test_sppo_scores_each_answer_by_its_chance_to_win() -> None:
    group = Group("p", (Scored("a", 1.0), Scored("b", 0.0), Scored("a", 1.0)))
    [row] = win_rates(group, Choice(score_beta=0.5), Random(0))
    sure = 1 / (1 + math.exp(-2))
    assert row["answers"] == ["a", "b"]
    assert row["scores"] == pytest.approx([(0.5 + sure + 0.5) / 3, (1 - sure + 0.5 + 1 - sure) / 3])
    shares = Group("p", (Scored("a", 0.8), Scored("b", 0.2)))
    assert win_rates(shares, Choice(win_shares=True), Random(0))[0]["scores"] == [0.8, 0.2]
    assert win_rates(Group("p", (Scored("a", 1.0), Scored("a", 1.0))), Choice(), Random(0)) == []
    assert win_rates(Group("p", (Scored("a", 1e9), Scored("b", -1e9))), Choice(), Random(0))[0]["scores"] == [
        0.75,
        0.25,
    ]


def test_sppo_ends_at_the_answer_that_nobody_beats() -> None:
    """Self-play on six answers with the exact loss: each step reaches π ∝ π_ref e^(P/β), the last one the best."""
    loss, beta = LIST_LOSSES["sppo"], 0.5
    rewards = torch.tensor(REWARD, dtype=torch.float64)
    beats = torch.sigmoid(rewards[:, None] - rewards[None, :])  # P(y ≻ y')
    policy = torch.tensor(POLICY, dtype=torch.float64)
    there, tokens = torch.ones(1, 6, dtype=torch.bool), torch.ones(1, 6, dtype=torch.float64)
    for _ in range(60):
        wins = beats @ policy
        reference = policy.log()
        tilted = reference + (wins - 0.5) / beta  # where the squares are 0, unless probabilities must sum to 1
        lists = Lists(tilted[None].requires_grad_(), tokens, wins[None], there, reference[None])
        value = loss.of(lists, Settings(beta=beta))
        assert value.item() == pytest.approx(0, abs=1e-24)
        assert torch.autograd.grad(value.sum(), lists.logps)[0].abs().max() < 1e-12
        policy = tilted.softmax(0)
    assert policy.argmax() == rewards.argmax()
    assert policy.max() > 0.99
