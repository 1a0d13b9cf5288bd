"""AUROC and rank correlation: closed forms, intervals that cover, p-values that are uniform."""

import itertools

import numpy as np
import pytest
from scipy.stats import norm, spearmanr

from eqloop.stability import auroc, rank_correlation, share


def counted(scores, positive):
    """The share of the pairs that are in order, where a tie counts half."""
    pairs = itertools.product(scores[positive], scores[~positive])
    return np.mean([(a > b) + (a == b) / 2 for a, b in pairs])


@pytest.mark.parametrize("distinct", [2, 5, 10**9])
def test_the_area_is_the_share_of_pairs_in_order(distinct):
    random = np.random.default_rng(distinct)
    for _ in range(20):
        scores = random.integers(0, distinct, 23).astype(float)
        positive = np.arange(23) < random.integers(1, 23)
        area = auroc(scores, positive)
        assert area.value == pytest.approx(counted(scores, positive), abs=1e-12)
        assert area.low <= area.value <= area.high
        assert (area.positives, area.negatives) == (positive.sum(), (~positive).sum())
        # The other group of the other sign is the same question.
        mirror = auroc(-scores, ~positive)
        assert mirror.value == pytest.approx(area.value)
        assert (mirror.low, mirror.high) == pytest.approx((area.low, area.high))


def test_infinite_scores_have_a_rank_and_unknown_scores_are_left_out():
    scores = np.array([np.inf, 1.0, -np.inf, np.nan, 0.0])
    area = auroc(scores, np.array([True, True, False, True, False]))
    assert (area.value, area.positives, area.negatives) == (1, 2, 2)


def test_the_p_value_is_that_of_all_permutations():
    """With 3 positive examples of 8 there are 56 labellings; the sampled p is that of all of them
    within its sampling error."""
    scores = np.array([0.1, 0.9, 0.3, 0.8, 0.85, 0.2, 0.4, 0.7])
    positive = np.isin(np.arange(8), [1, 3, 7])
    areas = [
        counted(scores, np.isin(np.arange(8), chosen))
        for chosen in itertools.combinations(range(8), 3)
    ]
    area = auroc(scores, positive)
    exact = np.mean(np.abs(np.array(areas) - 0.5) >= abs(area.value - 0.5) - 1e-12)
    assert area.p == pytest.approx(exact, abs=4 * np.sqrt(exact / 2000))
    assert area.null_low == pytest.approx(1 - area.null_high, abs=0.1)


def test_the_p_value_is_uniform_where_the_score_says_nothing():
    random = np.random.default_rng(0)
    positive = np.arange(40) < 25
    p = np.array([auroc(random.normal(size=40), positive).p for _ in range(300)])
    for level in (0.05, 0.25, 0.5, 0.75):
        assert np.mean(p <= level) == pytest.approx(level, abs=4 * np.sqrt(level / 300))
    # It is small where the score says something.
    told = [auroc(random.normal(size=40) + 2 * positive, positive).p for _ in range(50)]
    assert np.mean(np.array(told) <= 0.01) > 0.9


@pytest.mark.parametrize(
    ("m", "n", "spread", "true"),
    [(12, 4, 1, 0.8), (8, 8, 1, 0.95), (50, 14, 6, 0.8), (14, 2, 1, 1)],
)
def test_the_interval_covers_the_true_area(m, n, spread, true):
    """Also for few examples, groups of different spread, and a score that separates all pairs."""
    random = np.random.default_rng(m)
    positive = np.arange(m + n) < m
    sizes = np.where(positive, 1, spread)
    shift = min(norm.ppf(true), 20) * np.hypot(1, spread)
    inside = []
    for _ in range(200):
        area = auroc(random.normal(size=m + n) * sizes + shift * positive, positive)
        inside.append(area.low <= true <= area.high)
        assert area.low < area.high
    assert np.mean(inside) > 0.9


def test_an_area_that_is_not_measurable_says_why():
    names = ("right", "wrong")
    for positive, because in [
        (np.ones(4, bool), "all 4 examples with a score are right"),
        (np.zeros(4, bool), "all 4 examples with a score are wrong"),
    ]:
        area = auroc(np.arange(4.0), positive, groups=names)
        assert np.isnan([area.value, area.low, area.high, area.p, area.null_low]).all()
        assert area.because == because
    unknown = auroc(np.full(3, np.nan), np.array([True, False, True]))
    assert unknown.because == "the score is not known for any example"
    level = auroc(np.zeros(6), np.arange(6) < 3)
    assert (level.value, level.p, level.because) == (0.5, 1, None)


def test_rank_correlation_is_that_of_scipy_and_ignores_what_is_not_finite():
    random = np.random.default_rng(1)
    x, y = random.integers(0, 6, (2, 30)).astype(float)
    correlation = rank_correlation(np.append(x, [1, np.nan]), np.append(y, [np.inf, 1]))
    assert correlation.value == pytest.approx(spearmanr(x, y)[0])
    assert correlation.low < correlation.value < correlation.high
    assert correlation.count == 30
    assert rank_correlation(x, np.ones(30)).value == 0
    assert np.isnan(rank_correlation(np.ones(30), y).value)
    assert np.isnan(rank_correlation(x[:4], y[:4]).value)


def test_the_interval_of_a_share_ends_at_0_and_1_exactly():
    for count in range(1, 200):
        none, every = share(np.zeros(count, bool)), share(np.ones(count, bool))
        assert (str(none.low), str(every.high)) == ("0.0", "1.0")  # not -0.0
        assert none.high == pytest.approx(1 - every.low)
