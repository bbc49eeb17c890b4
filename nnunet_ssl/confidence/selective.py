"""How well a case score orders cases by their true Dice: rank correlation and the areas under the risk-coverage curves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from nnunet_ssl.errors import StateError

Numbers = NDArray[np.float64]


Strata = NDArray[np.intp]


def spearman(scores: ArrayLike, dice: ArrayLike, strata: Strata | None = None) -> float | None:
    """Spearman's rank correlation, ties by their mean rank; None for fewer than 2 cases or where either side is constant.

    Args:
        scores: (n,) case scores, higher is better.
        dice: (n,) true Dice of the same cases.
        strata: (n,) number of the stratum of each case: its means are taken off both sides first (`less_means`). None: all are of one.

    Raises:
        StateError: if they differ in length or hold NaN or infinity.
    """
    s, d = (less_means(values, strata) for values in _checked(scores, dice))
    if len(s) < 2 or np.ptp(s) == 0 or np.ptp(d) == 0:
        return None
    return float(stats.spearmanr(s, d).statistic)


def spearman_of_resamples(scores: ArrayLike, dice: ArrayLike, resamples: NDArray[np.intp], strata: Strata | None = None) -> Numbers:
    """Spearman's rank correlation in each of many resamples of the cases.

    Args:
        scores: (n,) case scores.
        dice: (n,) true Dice of the same cases.
        resamples: (r, n) indices of cases, one resample per row; with strata each is of the stratum of the case in its place.
        strata: as for `spearman`; the means are those of each resample.

    Returns:
        (r,); NaN where the scores or the Dice of a resample are constant.

    Raises:
        StateError: if scores and Dice differ in length or hold NaN or infinity.
    """
    s, d = _checked(scores, dice)
    # mean ranks always average (n + 1) / 2, and all sums here are of quarters, so a constant row has a variance of exactly 0
    centre = (resamples.shape[1] + 1) / 2
    ranked_s, ranked_d = (stats.rankdata(less_means(values[resamples], strata), axis=1) - centre for values in (s, d))
    variances = np.square(ranked_s).sum(axis=1) * np.square(ranked_d).sum(axis=1)
    correlations = np.full(len(resamples), np.nan)
    np.divide((ranked_s * ranked_d).sum(axis=1), np.sqrt(variances), out=correlations, where=variances > 0)
    return correlations


def less_means(values: Numbers, strata: Strata | None) -> Numbers:
    """Values less the mean of their stratum, in units of the largest of them; values of a single stratum as they are.

    Args:
        values: (..., n).
        strata: (n,) number of the stratum of each.

    Returns:
        (..., n); rounded, so that what is equal up to floating point is a tie.
    """
    if strata is None or not len(strata) or np.ptp(strata) == 0:
        return values
    centred = np.empty(values.shape)
    for stratum in np.unique(strata):
        members = values[..., strata == stratum]
        centred[..., strata == stratum] = members - members.mean(axis=-1, keepdims=True)
    return np.asarray(np.round(centred / max(np.abs(values).max(), np.finfo(np.float64).tiny), 12))


MOST_ORDERS = 5040
"""Up to so many orders, those of 7 cases, all are tried; of more a sample."""
NUM_SAMPLED_ORDERS = 10_000


def share_of_orders(scores: ArrayLike, dice: ArrayLike, strata: Strata | None = None) -> float:
    """Share of all orders of the scores whose rank correlation is at least as high, or as low where it is negative.

    The one-sided p value of a permutation test, exact up to 5040 orders, else of 10 000 random ones (always the same) and the given one.

    Args:
        scores: (n,) case scores.
        dice: (n,) true Dice of the same cases.
        strata: as for `spearman`; scores change places within their stratum alone.

    Returns:
        In (0, 1].

    Raises:
        StateError: if there are fewer than 2 cases, or they differ in length or hold NaN or infinity.
    """
    s, d = (less_means(values, strata) for values in _checked(scores, dice))
    if len(s) < 2:
        raise StateError(f"scores of {len(s)} cases have one order only; expected at least 2 cases.")
    members = [np.arange(len(s))] if strata is None else [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    # mean ranks and their products are multiples of 1/4: sums of them, which stand for the correlation, are compared exactly
    ranked_s, ranked_d = stats.rankdata(s), stats.rankdata(d) - (len(d) + 1) / 2
    found = ranked_s @ ranked_d
    side = 1 if found >= 0 else -1
    is_exact = math.prod(math.factorial(len(of_stratum)) for of_stratum in members) <= MOST_ORDERS
    orders = _all_orders(members) if is_exact else _random_orders(members)
    num_as_far = int((side * (ranked_s[orders] @ ranked_d) >= side * found).sum())
    return num_as_far / len(orders) if is_exact else (num_as_far + 1) / (len(orders) + 1)


def _all_orders(members: Sequence[NDArray[np.intp]]) -> NDArray[np.intp]:
    """Every order of cases within their strata, (number of orders, n); which place stands for which case is the same in all of them."""
    places = np.argsort(np.concatenate(members))
    of_strata = itertools.product(*(itertools.permutations(of_stratum.tolist()) for of_stratum in members))
    return np.array([[*itertools.chain(*order)] for order in of_strata], dtype=np.intp)[:, places]


def _random_orders(members: Sequence[NDArray[np.intp]]) -> NDArray[np.intp]:
    """`NUM_SAMPLED_ORDERS` of them."""
    random = np.random.default_rng(0)
    orders = np.empty((NUM_SAMPLED_ORDERS, sum(map(len, members))), dtype=np.intp)
    for of_stratum in members:
        orders[:, of_stratum] = random.permuted(np.tile(of_stratum, (NUM_SAMPLED_ORDERS, 1)), axis=1)
    return orders


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
