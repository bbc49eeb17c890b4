"""How well a case score orders cases by their true Dice: rank correlation and the areas under the risk-coverage curves."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from nnunet_ssl.errors import StateError

Numbers = NDArray[np.float64]


def spearman(scores: ArrayLike, dice: ArrayLike) -> float | None:
    """Spearman's rank correlation, ties by their mean rank; None for fewer than 2 cases or where either side is constant.

    Args:
        scores: (n,) case scores, higher is better.
        dice: (n,) true Dice of the same cases.

    Raises:
        StateError: if the two differ in length or hold NaN or infinity.
    """
    s, d = _checked(scores, dice)
    if len(s) < 2 or np.ptp(s) == 0 or np.ptp(d) == 0:
        return None
    return float(stats.spearmanr(s, d).statistic)


def spearman_of_resamples(scores: ArrayLike, dice: ArrayLike, resamples: NDArray[np.int64]) -> Numbers:
    """Spearman's rank correlation in each of many resamples of the cases.

    Args:
        scores: (n,) case scores.
        dice: (n,) true Dice of the same cases.
        resamples: (r, n) indices of cases, one resample per row.

    Returns:
        (r,); NaN where the scores or the Dice of a resample are constant.

    Raises:
        StateError: if scores and Dice differ in length or hold NaN or infinity.
    """
    s, d = _checked(scores, dice)
    # mean ranks always average (n + 1) / 2, and all sums here are of quarters, so a constant row has a variance of exactly 0
    centre = (resamples.shape[1] + 1) / 2
    ranked_s, ranked_d = (stats.rankdata(values[resamples], axis=1) - centre for values in (s, d))
    variances = np.square(ranked_s).sum(axis=1) * np.square(ranked_d).sum(axis=1)
    correlations = np.full(len(resamples), np.nan)
    np.divide((ranked_s * ranked_d).sum(axis=1), np.sqrt(variances), out=correlations, where=variances > 0)
    return correlations


MOST_ORDERED_CASES = 7
"""Up to so many cases all of their orders, 5040, are tried; of more a sample."""
NUM_ORDERS = 10_000


def share_of_orders(scores: ArrayLike, dice: ArrayLike) -> float:
    """Share of all orders of the scores whose rank correlation is at least as high, or as low where it is negative.

    The one-sided p value of a permutation test, exact up to 7 cases, of 10 000 random orders (always the same ones) from 8 on.

    Args:
        scores: (n,) case scores.
        dice: (n,) true Dice of the same cases.

    Returns:
        In (0, 1].

    Raises:
        StateError: if there are fewer than 2 cases, or the two differ in length or hold NaN or infinity.
    """
    s, d = _checked(scores, dice)
    if len(s) < 2:
        raise StateError(f"scores of {len(s)} cases have one order only; expected at least 2 cases.")
    # mean ranks and their products are multiples of 1/4: sums of them, which stand for the correlation, are compared exactly
    ranked_s, ranked_d = stats.rankdata(s), stats.rankdata(d) - (len(d) + 1) / 2

    def covariance(order: Numbers, axis: int) -> Numbers:
        return np.asarray(np.moveaxis(order, axis, -1) @ ranked_d)

    side: Literal["greater", "less"] = "greater" if covariance(ranked_s, 0) >= 0 else "less"
    test = stats.permutation_test(
        (ranked_s,),
        covariance,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=np.inf if len(s) <= MOST_ORDERED_CASES else NUM_ORDERS,
        alternative=side,
        random_state=np.random.default_rng(0),
    )
    return float(test.pvalue)


def unscored_last(scores: ArrayLike) -> Numbers:
    """Ranks that order all cases as their scores do, those without a score in last place, where the pool has them, too.

    Args:
        scores: (n,) case scores, higher is better; not finite where a case has none.

    Returns:
        (n,) from 1 upwards, ties by their mean rank, and 0 for every case without a score, so that these are tied; for `aurc` and `augrc`.
    """
    s = np.asarray(scores, dtype=np.float64)
    has_score = np.isfinite(s)
    ranks = np.zeros(s.shape)
    ranks[has_score] = stats.rankdata(s[has_score])
    return ranks


def aurc(scores: ArrayLike, losses: ArrayLike) -> float:
    """Area under the risk-coverage curve: mean over the coverages i/n, i = 1..n, of the mean loss of the i best-scored cases.

    Geifman, Uziel and El-Yaniv, "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers", ICLR 2019; the selective risk is that
    of Geifman and El-Yaniv, NeurIPS 2017. Ties are not broken: the value is the expectation over all orders of the tied cases, in which
    every place of a tie holds the tie's mean loss (exact, since the area is linear in the loss at each place).

    Args:
        scores: (n,) case scores; the highest is accepted first.
        losses: (n,) loss of the same cases, 1 - Dice.

    Raises:
        StateError: if there is no case, the two differ in length or hold NaN or infinity.
    """
    accepted = np.cumsum(_losses_in_order(scores, losses))
    return float((accepted / np.arange(1, len(accepted) + 1)).mean())


def augrc(scores: ArrayLike, losses: ArrayLike) -> float:
    """Area under the generalised risk-coverage curve: mean over the coverages i/n of the loss sum of the i best-scored cases, over n.

    The generalised risk at coverage i/n is the joint risk of a case to be accepted *and* wrong, coverage times selective risk, so that
    the first few accepted cases do not dominate the area as they do in `aurc`: Traub et al., "Overcoming Common Flaws in the Evaluation
    of Selective Classification Systems", NeurIPS 2024. Ties as in `aurc`. The sum is a right-hand one, to be comparable to `aurc`;
    the trapezoids from coverage 0 of the authors' own code are smaller by mean(loss) / (2 n), the same for every score.

    Args:
        scores: (n,) case scores; the highest is accepted first.
        losses: (n,) loss of the same cases, 1 - Dice.

    Raises:
        StateError: if there is no case, the two differ in length or hold NaN or infinity.
    """
    accepted = np.cumsum(_losses_in_order(scores, losses))
    return float(accepted.mean() / len(accepted))


def random_aurc(losses: ArrayLike) -> float:
    """Expected `aurc` of a random order: the mean loss, at every coverage."""
    return aurc(np.zeros(np.shape(losses)), losses)


def random_augrc(losses: ArrayLike) -> float:
    """Expected `augrc` of a random order: mean(loss) (n + 1) / (2 n), half the mean loss for many cases."""
    return augrc(np.zeros(np.shape(losses)), losses)


def _losses_in_order(scores: ArrayLike, losses: ArrayLike) -> Numbers:
    """Expected loss at each place of the order, best score first; tied cases share their mean."""
    s, found = _checked(scores, losses)
    if not len(s):
        raise StateError("no case to rank; the area under a risk-coverage curve needs at least one.")
    _, tie, sizes = np.unique(-s, return_inverse=True, return_counts=True)
    return np.repeat(np.bincount(tie, weights=found) / sizes, sizes)


def _checked(scores: ArrayLike, values: ArrayLike) -> tuple[Numbers, Numbers]:
    one, other = np.asarray(scores, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if one.ndim != 1 or one.shape != other.shape:
        raise StateError(f"scores have shape {one.shape} and the values of the cases {other.shape}; expected one of each per case.")
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise StateError("scores, Dice and losses must be finite; leave out cases without a score or without a Dice.")
    return one, other
