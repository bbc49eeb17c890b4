"""Held-out cases as the unit of statistics: which of them two quantities share, and seeded resamples of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.confidence.selective import Numbers
from nnunet_ssl.errors import StateError

LEAST_CASES = 4
"""Fewer held-out cases than this say nothing."""
NUM_RESAMPLES = 2000


def values_of_common_cases(
    dice: Mapping[str, float], *scores: Mapping[str, float | None], strata: Mapping[str, str] | None = None
) -> tuple[Numbers, ...]:
    """True Dice, then each score, of the cases that have all of them (None and NaN are none), in the order of case ids.

    With several strata their means are taken off all values, and cases that are alone in theirs are left out.

    Args:
        dice: true Dice by held-out case in [0, 1]; NaN where neither truth nor prediction holds any foreground.
        scores: any number of scores by case; further cases in them are ignored.
        strata: by case; None: all are of one.

    Returns:
        One array (n,) for the Dice and each score.

    Raises:
        StateError: if a Dice lies outside [0, 1].
    """
    table = _table(dice, *scores)
    is_known = np.all(np.isfinite(table), axis=1)
    known = table[is_known]
    if strata is None:
        return tuple(known.T)
    of_case = [strata[case] for case, has_all in zip(sorted(dice), is_known.tolist(), strict=True) if has_all]
    _, stratum, sizes = np.unique(of_case, return_inverse=True, return_counts=True)
    if len(sizes) > 1:
        means = np.stack([known[stratum == s].mean(axis=0) for s in range(len(sizes))])
        known = (known - means[stratum])[sizes[stratum] > 1]
    return tuple(known.T)


def values_of_all_cases(dice: Mapping[str, float], scores: Mapping[str, float | None]) -> tuple[Numbers, Numbers]:
    """True Dice of the cases that have one, then their scores, in the order of case ids.

    Args:
        dice: true Dice by held-out case in [0, 1]; NaN where neither truth nor prediction holds any foreground.
        scores: by case; further cases in it are ignored.

    Returns:
        Two arrays (n,); the score is NaN where a case has none.

    Raises:
        StateError: if a Dice lies outside [0, 1].
    """
    table = _table(dice, scores)
    truth, own = table[np.isfinite(table[:, 0])].T
    return truth, own


def _table(dice: Mapping[str, float], *scores: Mapping[str, float | None]) -> Numbers:
    """(n, 1 + number of scores): the Dice, then each score, of all cases in the order of their ids; NaN where there is none."""
    for case, value in dice.items():
        if value < 0 or value > 1:
            raise StateError(f"the true Dice of case '{case}' is {value}; expected a number in [0, 1], or NaN.")
    rows = [[values.get(case) for values in (dice, *scores)] for case in sorted(dice)]
    # None becomes NaN
    return np.array(rows, dtype=np.float64).reshape(len(rows), 1 + len(scores))


def resample_cases(num_cases: int, seed: int) -> NDArray[np.int64]:
    """Indices of cases drawn with replacement, (NUM_RESAMPLES, num_cases); the same for the same number and seed."""
    return np.random.default_rng(seed).integers(0, num_cases, size=(NUM_RESAMPLES, num_cases))


def defined_resamples(statistics: Numbers) -> Numbers | None:
    """The resamples in which a statistic is defined (not NaN), or None where these are less than half."""
    defined: Numbers = statistics[~np.isnan(statistics)]
    return defined if 2 * len(defined) >= len(statistics) else None
