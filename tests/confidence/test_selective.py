"""Rank correlation and risk-coverage areas, by hand, over all orders, and against the formula of the authors of AUGRC."""

from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from nnunet_ssl.confidence.selective import (
    augrc,
    aurc,
    less_means,
    random_augrc,
    random_aurc,
    share_of_orders,
    spearman,
    spearman_of_resamples,
    unscored_last,
)
from nnunet_ssl.errors import StateError

AREAS = {"aurc": aurc, "augrc": augrc}
Area = Callable[..., float]

cases = st.lists(st.tuples(st.integers(-20, 20), st.integers(0, 10)), min_size=1, max_size=12)
"""Scores and losses in tenths; both with ties."""


@pytest.fixture(params=AREAS)
def area(request: pytest.FixtureRequest) -> Area:
    return AREAS[request.param]


def test_areas_by_hand() -> None:
    # accepted in the order 0.1, 0.2, 0.6: sums 0.1, 0.3, 0.9
    scores, losses = [0.5, 0.9, 0.7], [0.6, 0.1, 0.2]
    assert aurc(scores, losses) == pytest.approx((0.1 + 0.3 / 2 + 0.9 / 3) / 3)
    assert augrc(scores, losses) == pytest.approx((0.1 + 0.3 + 0.9) / 3 / 3)


def test_areas_with_a_tie_by_hand() -> None:
    # the second and third place hold 0.3 or 0.5, each in one of two orders: sums 0.1, 0.5, 0.9, 1.9
    scores, losses = [4, 2, 2, 1], [0.1, 0.3, 0.5, 1.0]
    assert aurc(scores, losses) == pytest.approx((0.1 + 0.5 / 2 + 0.9 / 3 + 1.9 / 4) / 4)
    assert augrc(scores, losses) == pytest.approx((0.1 + 0.5 + 0.9 + 1.9) / 4 / 4)


def test_cases_without_a_score_are_last_and_tied() -> None:
    assert unscored_last([0.5, np.nan, 0.7, 0.5, -np.inf]).tolist() == [1.5, 0, 3, 1.5, 0]
    assert unscored_last([]).tolist() == []
    assert unscored_last([np.nan, np.nan]).tolist() == [0, 0]


def test_one_case(area: Area) -> None:
    assert area([0.3], [0.4]) == pytest.approx(0.4)


def test_ties_are_the_mean_over_their_orders(area: Area) -> None:
    scores, losses = np.array([1, 0, 1, 0, 1, 2]), np.array([0.2, 0.9, 0.0, 0.3, 0.7, 0.4])
    orders = [
        area(-np.arange(6), losses[list(order)])
        for order in permutations(range(6))
        if (np.diff(scores[list(order)]) <= 0).all()  # the best scores first
    ]
    assert len(orders) == 6 * 2
    assert area(scores, losses) == pytest.approx(np.mean(orders))


def test_random_is_the_mean_over_all_orders() -> None:
    losses = [0.0, 0.1, 0.5, 0.9]
    for expected, area in ((random_aurc(losses), aurc), (random_augrc(losses), augrc)):
        assert expected == pytest.approx(np.mean([area([4, 3, 2, 1], order) for order in permutations(losses)]))
    assert random_aurc(losses) == pytest.approx(0.375)
    assert random_augrc(losses) == pytest.approx(0.375 * 5 / 8)


def test_augrc_of_failures_follows_from_auroc() -> None:
    # Traub et al. 2024: (1 - AUROC) acc err + err^2 / 2 by trapezoids; ours is a right-hand sum
    rng = np.random.default_rng(0)
    scores, failed = rng.integers(0, 8, 30), rng.random(30) < 0.3
    err = failed.mean()
    trapezoids = (1 - roc_auc_score(~failed, scores)) * (1 - err) * err + err**2 / 2
    assert augrc(scores, failed) == pytest.approx(trapezoids + err / 60)


@given(cases)
def test_a_perfect_order_is_best_and_its_reverse_worst(found: list[tuple[int, int]]) -> None:
    losses = np.array([loss for _, loss in found]) / 10
    scores = np.array([score for score, _ in found])
    for area, random in ((aurc, random_aurc(losses)), (augrc, random_augrc(losses))):
        best, worst, some = area(-losses, losses), area(losses, losses), area(scores, losses)
        assert best - 1e-12 <= random <= worst + 1e-12
        assert best - 1e-12 <= some <= worst + 1e-12


@given(cases)
def test_only_the_order_of_the_scores_counts(found: list[tuple[int, int]]) -> None:
    scores, losses = np.array(found).T
    # exact in float64, so ties stay ties
    for area in AREAS.values():
        assert area(scores**3 + 5, losses / 10) == pytest.approx(area(scores, losses / 10))
    assert spearman(scores**3 + 5, losses) == spearman(scores, losses)


def test_spearman_by_hand() -> None:
    # ranks differ by 1, 1, 0, 1, 1: 1 - 6 * 4 / (5 * 24)
    assert spearman([0.1, 0.2, 0.3, 0.4, 0.5], [0.6, 0.5, 0.7, 0.9, 0.8]) == pytest.approx(0.8)
    # mean ranks 1.5, 1.5, 3 and 1, 2, 3: covariance 1.5, variances 1.5 and 2
    assert spearman([1, 1, 2], [0.1, 0.2, 0.3]) == pytest.approx(1.5 / np.sqrt(1.5 * 2))


@pytest.mark.parametrize(("scores", "dice"), [([], []), ([0.1], [0.2]), ([0.5, 0.5, 0.5], [1, 2, 3]), ([1, 2, 3], [0.9, 0.9, 0.9])])
def test_no_spearman_where_nothing_varies(scores: list[float], dice: list[float]) -> None:
    assert spearman(scores, dice) is None


def test_two_cases_have_a_correlation() -> None:
    assert spearman([0.1, 0.2], [0.9, 0.3]) == pytest.approx(-1)


@settings(max_examples=30, deadline=None)
@given(cases, st.integers(0, 99))
def test_spearman_of_resamples_is_that_of_scipy(found: list[tuple[int, int]], seed: int) -> None:
    scores, dice = np.array(found).T / 10
    resamples = np.random.default_rng(seed).integers(0, len(found), size=(20, len(found)))
    for row, correlation in zip(resamples, spearman_of_resamples(scores, dice, resamples), strict=True):
        if np.ptp(scores[row]) == 0 or np.ptp(dice[row]) == 0:
            assert np.isnan(correlation)
        else:
            assert correlation == pytest.approx(stats.spearmanr(scores[row], dice[row]).statistic)
            assert -1 <= correlation <= 1


STRATA = np.array([1, 0, 1, 0, 0, 1])


def test_correlation_within_strata_by_hand() -> None:
    """Less their means the scores are -1, -2, 1, 0, 2, 0 and the Dice 0.1, -0.2, -0.1, 0.1, 0.1, 0."""
    scores, dice = [1, 10, 3, 12, 14, 2], [0.9, 0.1, 0.7, 0.4, 0.4, 0.8]
    expected = stats.spearmanr([-1, -2, 1, 0, 2, 0], [1, -2, -1, 1, 1, 0]).statistic
    assert spearman(scores, dice, STRATA) == pytest.approx(expected)
    assert spearman(scores, dice, np.zeros(6, dtype=np.intp)) == spearman(scores, dice)
    assert spearman([1, 2, 1, 2, 2, 1], dice, STRATA) is None
    (resampled,) = spearman_of_resamples(scores, dice, np.array([[2, 1, 2, 3, 3, 0]]), STRATA)
    assert resampled == pytest.approx(stats.spearmanr([2, -4, 2, 2, 2, -4], [-2, -6, -2, 3, 3, 4]).statistic)


def test_equal_values_are_ties_whatever_their_means() -> None:
    values = np.array([0.1, 0.3, 0.2, 0.1 + 0.7, 0.3 + 0.7, 0.2 + 0.7]) * 1e-6
    low, middle, high = np.unique(less_means(values, np.array([0, 0, 0, 1, 1, 1])))
    assert (low, middle, high) == (-high, 0, pytest.approx(0.1 / 1.0))


def test_what_cannot_be_ranked_is_refused(area: Area) -> None:
    with pytest.raises(StateError, match="no case"):
        area([], [])
    with pytest.raises(StateError, match=r"shape \(2,\) .*\(3,\)"):
        area([1, 2], [1, 2, 3])
    with pytest.raises(StateError, match="finite"):
        area([1, np.nan], [0, 1])
    with pytest.raises(StateError, match="finite"):
        spearman([1, 2], [0, np.inf])


def test_share_of_orders_by_hand() -> None:
    dice = [0.1, 0.2, 0.3, 0.4]
    assert share_of_orders([1, 2, 3, 4], dice) == pytest.approx(1 / 24)
    assert share_of_orders([4, 3, 2, 1], dice) == pytest.approx(1 / 24)
    # besides the perfect order, those that exchange two neighbours
    assert share_of_orders([1, 2, 4, 3], dice) == pytest.approx(4 / 24)
    assert share_of_orders([2, 2, 2, 2], dice) == 1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 3)), min_size=2, max_size=5))
def test_share_of_orders_counts_rank_correlations(values: list[tuple[int, int]]) -> None:
    scores, dice = (np.array(column, dtype=float) for column in zip(*values, strict=True))
    found = share_of_orders(scores, dice)
    if np.ptp(scores) == 0 or np.ptp(dice) == 0:
        assert found == 1
        return
    own = stats.spearmanr(scores, dice).statistic
    others = np.array([stats.spearmanr(order, dice).statistic for order in permutations(scores)])
    as_far = others >= own - 1e-9 if own > -1e-9 else others <= own + 1e-9
    assert found == pytest.approx(as_far.mean())


def test_orders_within_strata_by_hand() -> None:
    scores, dice = [1, 5, 2, 6, 3, 7], [0.1, 0.7, 0.2, 0.8, 0.3, 0.9]
    pairs = np.array([0, 1, 0, 1, 2, 2])
    # the same order in three pairs is one of eight, in two strata of three one of 36; all cases together are 720
    assert share_of_orders(scores, dice, pairs) == pytest.approx(1 / 8)
    assert share_of_orders(scores, dice, np.array([0, 1, 0, 1, 0, 1])) == pytest.approx(1 / 36)
    assert share_of_orders(scores, dice) == pytest.approx(1 / 720)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 3)), min_size=5, max_size=5))
def test_orders_within_strata_are_those_of_a_loop(values: list[tuple[int, int]]) -> None:
    scores, dice = (np.array(column, dtype=float) for column in zip(*values, strict=True))
    strata = np.array([1, 0, 1, 0, 1])
    own, reached = spearman(scores, dice, strata), []
    for first in permutations(scores[[1, 3]]):
        for second in permutations(scores[[0, 2, 4]]):
            order = np.array([second[0], first[0], second[1], first[1], second[2]])
            other = spearman(order, dice, strata)
            reached.append(own is None or other is None or (other >= own - 1e-9 if own > -1e-9 else other <= own + 1e-9))
    assert share_of_orders(scores, dice, strata) == pytest.approx(np.mean(reached))


@pytest.mark.parametrize("strata", [None, np.array([0, 1] * 6)])
def test_random_orders_are_those_of_a_loop(strata: Any) -> None:
    """12 cases, or two strata of 6 with 720 ^ 2 orders: the share is that of a loop over other random orders."""
    random = np.random.default_rng(5)
    scores = random.normal(size=12)
    dice = 0.4 * scores + random.normal(size=12)
    s, d = (stats.rankdata(less_means(values, strata)) for values in (scores, dice))
    found, drawn = s @ d, []
    for _ in range(20_000):
        order = np.arange(12)
        for members in [np.arange(12)] if strata is None else [np.flatnonzero(strata == 0), np.flatnonzero(strata == 1)]:
            order[members] = random.permutation(members)
        drawn.append(s[order] @ d >= found)
    assert 0.01 < np.mean(drawn) < 0.4
    assert share_of_orders(scores, dice, strata) == pytest.approx(np.mean(drawn), abs=0.015)
    assert share_of_orders(scores, dice, strata) == share_of_orders(scores, dice, strata)


def test_orders_of_a_single_case_are_refused() -> None:
    with pytest.raises(StateError, match="scores of 1 cases have one order only"):
        share_of_orders([1.0], [0.5])
