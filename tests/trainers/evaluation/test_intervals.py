"""Intervals against values known by hand or by enumeration, and tests against their own definitions."""

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.evaluation.core import Estimate
from trainers.evaluation.stats.intervals import (
    differing,
    holm,
    kappa,
    mean,
    needed,
    needed_for,
    paired_difference,
    paired_p,
    rate,
    student_quantile,
)
from trainers.evaluation.stats.significance import DECISIVE

NUMBERS = st.lists(st.floats(-1e6, 1e6).map(lambda x: round(x, 3)), min_size=2, max_size=40)
SHARES = (0.02, 0.02, 0.05, 0.05, 0.1, 0.1, 0.2, 0.2, 0.4, 0.6)  # of questions whose answers differ
BITS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40)


def pairs(gained: int, lost: int, n: int) -> tuple[list[float], list[float]]:
    rest = n - gained - lost
    return [0.0] * gained + [1.0] * lost + [1.0] * rest, [1.0] * gained + [0.0] * lost + [1.0] * rest


def near(found: Estimate, low: float, high: float, within: float = 5e-5) -> bool:
    return math.isclose(found.low, low, abs_tol=within) and math.isclose(found.high, high, abs_tol=within)


# ---------------------------------------------------------------- one arm


def test_wilson_gives_newcombes_published_values() -> None:
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3."""
    table = ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718))
    for yes, n, low, high in table:
        assert near(rate([True] * yes + [False] * (n - yes)), low, high), (yes, n)


@given(st.lists(st.booleans(), min_size=1, max_size=60))
@settings(deadline=None)
def test_a_rate_lies_in_its_interval_and_its_complement_mirrors_it(yes: list[bool]) -> None:
    found, other = rate(yes), rate([not one for one in yes])
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high
    assert near(other, 1 - found.high, 1 - found.low, 1e-12)


def test_samples_of_a_question_tell_less_than_as_many_questions_but_more_than_one_sample() -> None:
    shares = [0.0, 0.25, 0.5, 0.75, 1.0] * 12
    found = rate(shares)
    as_questions = rate([True] * 120 + [False] * 120)  # the same answers, were they of 240 questions
    one_sample = rate([True] * 30 + [False] * 30)
    assert as_questions.high - as_questions.low < found.high - found.low < one_sample.high - one_sample.low


def test_the_quantiles_of_student_are_the_tables() -> None:
    for degrees, value in ((1, 12.7062), (2, 4.3027), (3, 3.1824), (10, 2.2281), (29, 2.0452), (120, 1.9799)):
        assert math.isclose(student_quantile(degrees), value, abs_tol=5e-5)
    assert math.isclose(student_quantile(1000), student_quantile(1001), abs_tol=1e-4)


@given(NUMBERS, st.floats(0.01, 100), st.floats(-1000, 1000))
@settings(max_examples=30, deadline=None)
def test_a_mean_moves_with_its_unit(values: list[float], scale: float, shift: float) -> None:
    found, moved = mean(values), mean([value * scale + shift for value in values])
    size = max(1.0, max(map(abs, values))) * max(1.0, scale) + abs(shift)
    assert math.isclose(moved.value, found.value * scale + shift, abs_tol=1e-9 * size)
    assert math.isclose(moved.low, found.low * scale + shift, abs_tol=1e-4 * size)
    assert found.low <= found.value <= found.high


def test_equal_values_have_no_width_and_the_seed_decides_the_rest() -> None:
    assert mean([0.1] * 7) == Estimate(mean([0.1] * 7).value, *[pytest.approx(0.1)] * 2, 7)
    values = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 3.0, 5.0]
    assert mean(values, seed=3) == mean(values, seed=3)
    assert mean(values, seed=3) != mean(values, seed=4)


def test_the_bootstrap_t_is_what_hall_defines() -> None:
    """Resample by resample, with other chances: the 95% quantile of |mean* - mean| / (its own standard error)."""
    values = np.asarray([0.2, 0.3, 0.5, 0.9, 1.0, 1.4, 2.2, 3.1, 5.0, 12.0] * 2)
    rng, ts = np.random.default_rng(12345), []
    for _ in range(8000):
        drawn = rng.choice(values, 20)
        if drawn.std() > 0:
            ts.append(abs(drawn.mean() - values.mean()) / (drawn.std(ddof=1) / math.sqrt(20)))
    half = float(np.quantile(ts, 0.95)) * values.std(ddof=1) / math.sqrt(20)
    found = mean(values)
    assert math.isclose(found.high - found.value, half, rel_tol=0.1)
    assert math.isclose(found.value - found.low, half, rel_tol=0.1)
    assert half > 1.15 * student_quantile(19) * values.std(ddof=1) / math.sqrt(20)  # and Student's would not do


def test_a_mean_of_long_tails_is_covered_where_students_interval_is_not_enough() -> None:
    """400 samples of 30 from exp(N(0, 0.8)): Student's interval holds the mean in some 91%, the bootstrap-t in 93%."""
    rng, truth, ours, students = np.random.default_rng(5), math.exp(0.32), 0, 0
    for _ in range(400):
        values = rng.lognormal(0, 0.8, 30)
        found = mean(values)
        half = student_quantile(29) * values.std(ddof=1) / math.sqrt(30)
        ours += found.low <= truth <= found.high
        students += abs(values.mean() - truth) <= half
    assert ours / 400 > 0.91
    assert ours > students


def test_very_many_questions_get_students_interval_without_a_seam() -> None:
    values = np.random.default_rng(1).lognormal(0, 0.9, 5000)
    few, many = mean(values[:4999]), mean(values)
    assert math.isclose(many.high - many.value, 1.9604 * values.std(ddof=1) / math.sqrt(5000), rel_tol=1e-4)
    assert math.isclose(few.high - few.value, many.high - many.value, rel_tol=0.05)


@pytest.mark.parametrize("values", [[], [1.0]])
def test_too_few_values_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="2 values"):
        mean(values)
    with pytest.raises(ValueError, match="2 values"):
        paired_p(values, values)
    with pytest.raises(ValueError, match="cannot be pairs"):
        paired_difference([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="finite"):
        mean([1.0, math.nan])
    with pytest.raises(ValueError, match="between 0 and 1"):
        rate([0.0, 1.5])


# ---------------------------------------------------------------- two arms


def test_tango_solves_his_own_equation() -> None:
    """At both ends the score statistic is 1.96: equations 8 to 10 of Tango 1998, solved another way."""
    z = NormalDist().inv_cdf(0.975)
    for gained, lost, n in ((5, 1, 30), (0, 0, 44), (20, 12, 100), (3, 40, 450)):
        found = paired_difference(*pairs(gained, lost, n))
        for delta in (found.low, found.high):
            b = (2 * n - gained + lost) * delta - gained - lost
            q = (math.sqrt(b * b + 8 * n * lost * delta * (1 - delta)) - b) / (4 * n)
            score = (gained - lost - n * delta) / math.sqrt(n * (2 * q + delta * (1 - delta)))
            assert math.isclose(abs(score), z, rel_tol=1e-6), (gained, lost, n)


def test_tango_covers_few_discordant_pairs_where_the_plain_interval_does_not() -> None:
    """All outcomes of 30 pairs, of which 5% change for the better and none for the worse."""
    ours = plain = 0.0
    for gained in range(31):
        chance = math.comb(30, gained) * 0.05**gained * 0.95 ** (30 - gained)
        found, share = paired_difference(*pairs(gained, 0, 30)), gained / 30
        half = 1.96 * math.sqrt(share * (1 - share) / 30)
        ours += chance * (found.low <= 0.05 <= found.high)
        plain += chance * (share - half <= 0.05 <= share + half)
    assert ours > 0.93
    assert plain < 0.80


@given(BITS)
@settings(deadline=None)
def test_arms_may_be_exchanged(rows: list[tuple[bool, bool]]) -> None:
    before, after = [float(a) for a, _ in rows], [float(b) for _, b in rows]
    found, back = paired_difference(before, after), paired_difference(after, before)
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert near(found, -back.high, -back.low, 1e-9)
    assert paired_p(before, after) == paired_p(after, before)


def test_shares_that_rarely_differ_keep_an_interval() -> None:
    same = [0.5] * 20
    found = paired_difference(same, same, share=True)
    assert found.low < -0.02 < 0 < 0.02 < found.high
    assert paired_difference(same, same).low == 0  # of a mean that never differs there is nothing to be unsure of


@given(BITS)
@settings(deadline=None)
def test_mcnemar_is_the_binomial_of_the_pairs_that_differ(rows: list[tuple[bool, bool]]) -> None:
    gained, lost = sum(b and not a for a, b in rows), sum(a and not b for a, b in rows)
    n = gained + lost
    name, p = paired_p([float(a) for a, _ in rows], [float(b) for _, b in rows])
    one = sum(math.comb(n, k) for k in range(max(gained, lost), n + 1)) / 2**n
    assert name.startswith("McNemar")
    assert math.isclose(p, min(1.0, 2 * one), rel_tol=1e-12)


@given(st.lists(st.integers(-9, 9), min_size=2, max_size=9))
@settings(max_examples=50, deadline=None)
def test_few_flips_are_all_tried(change: list[int]) -> None:
    before, after = [0.5] * len(change), [0.5 + one for one in change]
    _, p = paired_p(before, after)
    flips = list(itertools.product((1, -1), repeat=len(change)))
    beyond = sum(abs(sum(s * c for s, c in zip(signs, change, strict=True))) >= abs(sum(change)) for signs in flips)
    assert math.isclose(p, beyond / len(flips), rel_tol=1e-12)


def test_many_flips_are_drawn_and_agree_with_the_normal_distribution() -> None:
    rng = np.random.default_rng(2)
    for shift in (0.0, 0.15, 0.25):
        change = rng.normal(shift, 1, 200)
        _, p = paired_p(np.zeros(200), change)
        z = abs(change.sum()) / math.sqrt((change**2).sum())
        assert math.isclose(p, 2 * NormalDist().cdf(-z), rel_tol=0.3, abs_tol=2e-3)


def test_arms_that_do_the_same_are_called_different_in_a_twentieth() -> None:
    """2,000 pairs of correlated, long-tailed arms; three standard errors around 5%."""
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(2000):
        shared = rng.normal(0, 0.7, 25)
        before, after = np.exp(shared + rng.normal(0, 0.4, 25)), np.exp(shared + rng.normal(0, 0.4, 25))
        hits += paired_p(before, after)[1] < 0.05
    assert 0.035 < hits / 2000 < 0.065


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_what_no_test_could_show_costs_the_others_nothing() -> None:
    ps, differ = [0.03, 1.0, 0.0625, 0.02], [6, 0, 5, 9]
    assert holm(ps, differ) == pytest.approx([0.04, 1.0, 1.0, 0.04])
    for k in range(DECISIVE + 1):  # all that differ go one way, which is as far as a p can fall
        before, after = [0.0] * 40, [1.0] * k + [0.0] * (40 - k)
        assert differing(before, after) == k
        assert (paired_p(before, after)[1] < 0.05) == (k >= DECISIVE)
        assert (paired_p(before, [0.1 * i for i in range(1, k + 1)] + [0.0] * (40 - k))[1] < 0.05) == (k >= DECISIVE)


def test_holm_over_what_can_tell_anything_keeps_its_promise() -> None:
    rng = np.random.default_rng(8)
    hits = 0
    for _ in range(1500):  # ten true null hypotheses, most of them with few that differ
        both = [pairs(*rng.multinomial(40, [share / 2, share / 2, 1 - share])[:2].tolist(), 40) for share in SHARES]
        ps = holm([paired_p(*two)[1] for two in both], [differing(*two) for two in both])
        hits += min(ps) < 0.05
    assert hits / 1500 < 0.065


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
@settings(deadline=None)
def test_holm_never_lowers_and_keeps_the_order(ps: list[float]) -> None:
    found = holm(ps)
    assert all(p <= q <= min(1.0, len(ps) * p) + 1e-12 for p, q in zip(ps, found, strict=True))
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    assert all(found[a] <= found[b] for a, b in itertools.pairwise(order))


# ---------------------------------------------------------------- how many, and agreement


@pytest.mark.parametrize(
    ("effect", "differ", "comparisons"), [(0.1, 0.3, 1), (0.05, 0.1, 1), (0.3, 0.4, 1), (0.1, 0.3, 20)]
)
def test_as_many_questions_as_planned_find_the_effect(effect: float, differ: float, comparisons: int) -> None:
    n = needed_for(effect, differ, comparisons=comparisons)
    rng = np.random.default_rng(3)
    drawn = rng.multinomial(n, [(differ + effect) / 2, (differ - effect) / 2, 1 - differ], size=1500)
    hits = [paired_p(*pairs(int(gained), int(lost), n))[1] < 0.05 / comparisons for gained, lost, _ in drawn]
    assert 0.77 < sum(hits) / 1500 < 0.9


def test_means_need_the_textbooks_number() -> None:
    assert needed_for(0.5, 1.0, kind="mean") == math.ceil((1.959964 + 0.841621) ** 2 / 0.25 + 1.959964**2 / 2)
    assert needed_for(-0.5, 1.0, kind="mean") == needed_for(0.5, 1.0, kind="mean")


def test_what_was_observed_plans_the_next_run() -> None:
    before, after = pairs(12, 3, 60)
    assert needed(before, after) == needed_for(9 / 60, 15 / 60)
    assert needed(before, before) is None
    assert needed([0.1] * 3, [0.1 + 1e-17] * 3) is None
    with pytest.raises(ValueError, match="differ"):
        needed_for(0.3, 0.2)
    with pytest.raises(ValueError, match="other than 0"):
        needed_for(0.0, 0.2)


def test_kappa_by_hand() -> None:
    """Fleiss, Statistical Methods for Rates and Proportions, table 18.1: 100 subjects, kappa 0.68 (0.676)."""
    counts = {("p", "p"): 75, ("p", "n"): 1, ("p", "o"): 4, ("n", "p"): 5, ("n", "n"): 4, ("n", "o"): 1, ("o", "o"): 10}
    a = [one for (one, _), n in counts.items() for _ in range(n)]
    b = [other for (_, other), n in counts.items() for _ in range(n)]
    found = kappa(a, b)
    assert math.isclose(found.value, 0.676, abs_tol=5e-4)
    assert 0.4 < found.low < found.value < found.high < 0.85
    assert kappa(["x"] * 5, ["x"] * 5).value == 0
    assert kappa(["x", "y"] * 5, ["x", "y"] * 5).high == 1
    with pytest.raises(ValueError, match="two labels"):
        kappa(["x"], [])
