"""How far probabilities are from the frequencies that they promise, measured on histograms of held-out cases.

A histogram knows a voxel's probability by its bin, whose centre stands for it. A curve of slope a is thereby off by a * 0.0025 at most
(see NUM_BINS), so an expected calibration error is off by that much and a Brier score by twice that; mean errors are far smaller.
All figures are of one-vs-rest probabilities, before softmax heads are normalised: that joins the heads, which histograms keep apart.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from nnunet_ssl.confidence.calibration_map import CalibrationMap
from nnunet_ssl.confidence.held_out import HeldOutCounts, bin_logits, case_shares
from nnunet_ssl.errors import StateError

Array = NDArray[np.float64]

NUM_ERROR_BINS = 20
"""E, equal bins of the probability between which the expected calibration error tells probabilities apart."""


def expected_calibration_error(
    cases: Mapping[str, HeldOutCounts], calibration: CalibrationMap | None, *, has_regions: bool
) -> float | None:
    """Expected calibration error inside the foreground bands: the mean of |promised - true frequency| over 20 bins of the probability.

    One-vs-rest, mean over the foreground heads, every case with the same weight.

    Args:
        cases: held-out cases; for an honest figure none that the map was fitted on.
        calibration: the map, or None for M1 as it is.
        has_regions: whether the heads are regions.

    Returns:
        In [0, 1]; None if no case has a labelled voxel in its band.

    Raises:
        StateError: if the cases or the map differ in the number of heads.
    """
    shares = case_shares(cases)
    if not len(shares.totals):
        return None
    table = reliability_table(shares.totals.sum(axis=0), shares.positives.sum(axis=0), curves(calibration, shares.totals.shape[1]))
    return error_of_table(table, has_regions=has_regions)


def curves(calibration: CalibrationMap | None, num_heads: int) -> Array:
    """One-vs-rest probabilities at the centres of the histograms' bins, (H, B); without a map those of M1 itself.

    Raises:
        StateError: if the map has another number of heads.
    """
    logits = bin_logits()
    if calibration is None:
        return np.tile(expit(logits), (num_heads, 1))
    if len(calibration.heads) != num_heads:
        raise StateError(f"held-out cases have {num_heads} heads, the calibration {len(calibration.heads)}.")
    return np.stack([head(logits) for head in calibration.heads])


def brier_score(totals: Array, positives: Array, probabilities: Array) -> float:
    """Brier score of one case: mean squared distance of probability and truth, mean over all heads.

    Args:
        totals: (H, B), with the total 1 per head.
        positives: (H, B).
        probabilities: at the bins' centres, (H, B).
    """
    squares = positives * (1 - probabilities) ** 2 + (totals - positives) * probabilities**2
    return float(squares.sum() / len(totals))


def reliability_table(totals: Array, positives: Array, probabilities: Array) -> Array:
    """Weight, promised positives and true positives by bin of the probability; tables of several cases add up.

    Args:
        totals: (H, B).
        positives: (H, B).
        probabilities: at the bins' centres, (H, B).

    Returns:
        (3, H, E).
    """
    bins = np.minimum((probabilities * NUM_ERROR_BINS).astype(np.intp), NUM_ERROR_BINS - 1)
    columns = (totals, totals * probabilities, positives)
    return np.array(
        [[np.bincount(b, weights=w, minlength=NUM_ERROR_BINS) for b, w in zip(bins, weights, strict=True)] for weights in columns]
    )


def error_of_table(table: Array, *, has_regions: bool) -> float:
    """Expected calibration error of a table (3, H, E), mean over the foreground heads."""
    total, promised, true = table if has_regions else table[:, 1:]
    return float((np.abs(promised - true).sum(axis=1) / total.sum(axis=1)).mean())
