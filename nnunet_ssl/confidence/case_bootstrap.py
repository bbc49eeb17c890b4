"""Held-out cases as the unit of statistics: which of them two quantities share, and seeded resamples of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.confidence.selective import Numbers
from nnunet_ssl.errors import StateError

LEAST_CASES = 4
"""Fewer held-out cases than this say nothing."""
NUM_RESAMPLES = 2000


class CommonCases(NamedTuple):
    """Held-out cases that have a Dice and all of some scores, in the order of their ids."""

    values: tuple[Numbers, ...]
    """The true Dice, then each score, (n,) each."""
    strata: NDArray[np.intp]
    """Number of the stratum of each, (n,)."""


def common_cases(dice: Mapping[str, float], *scores: Mapping[str, float | None], strata: Mapping[str, str] | None = None) -> CommonCases:
    """The cases that have the Dice and all scores (None and NaN are none); with several strata less those that are alone in theirs.

    Args:
        dice: true Dice by held-out case in [0, 1]; NaN where neither truth nor prediction holds any foreground.
        scores: any number of scores by case; further cases in them are ignored.
        strata: by case; None: all are of one.

    Raises:
        StateError: if a Dice lies outside [0, 1].
    """
    table = _table(dice, *scores)
    is_known = np.all(np.isfinite(table), axis=1)
    known = table[is_known]
    if strata is None:
        return CommonCases(tuple(known.T), np.zeros(len(known), dtype=np.intp))
    of_case = [strata[case] for case, has_all in zip(sorted(dice), is_known.tolist(), strict=True) if has_all]
    _, stratum, sizes = np.unique(of_case, return_inverse=True, return_counts=True)
    is_judged = sizes[stratum] > 1 if len(sizes) > 1 else np.ones(len(known), dtype=bool)
    return CommonCases(tuple(known[is_judged].T), np.asarray(stratum[is_judged], dtype=np.intp))


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


def resample_cases(strata: NDArray[np.intp], seed: int) -> NDArray[np.intp]:
    """Indices of cases, each drawn with replacement from the stratum of the case in whose place it stands.

    Args:
        strata: number of the stratum of each case, (n,).
        seed: the same strata and seed give the same resamples.

    Returns:
        (NUM_RESAMPLES, n).
    """
    random = np.random.default_rng(seed)
    resamples = np.empty((NUM_RESAMPLES, len(strata)), dtype=np.intp)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        resamples[:, members] = members[random.integers(0, len(members), size=(NUM_RESAMPLES, len(members)))]
    return resamples


def defined_resamples(statistics: Numbers) -> Numbers | None:
    """The resamples in which a statistic is defined (not NaN), or None where these are less than half."""
    defined: Numbers = statistics[~np.isnan(statistics)]
    return defined if 2 * len(defined) >= len(statistics) else None
