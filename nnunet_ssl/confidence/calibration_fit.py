"""Fits of the calibration curves to weighted histograms."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression

from nnunet_ssl.confidence.calibration_map import LOGIT_LIMIT, CalibrationMap, Kind, Knots, LogitLine
from nnunet_ssl.confidence.held_out import CaseShares, bin_logits

Array = NDArray[np.float64]

STEEPEST = 10.0
"""Slopes lie in [1 / STEEPEST, STEEPEST]: heads that separate their voxels perfectly would ask for infinity."""


def fit_map(kind: Kind, shares: CaseShares, case_weights: Array, *, has_regions: bool) -> CalibrationMap:
    """Fit one kind of map to all bands together.

    A head without a positive or without a negative voxel gives no curve a foothold: it keeps its probabilities (the identity) and has no
    part in the common temperature, which it takes as the others do.

    Args:
        kind: `identity`: nothing to fit. `temperature`: one T for all heads; `logistic`: a_k > 0 and b_k per head; both minimise the
            one-vs-rest log loss.
            `isotonic`: nondecreasing curves of least squares.
        shares: histograms of N cases.
        case_weights: (N,), 1 or, for a case that is left out, 0.
        has_regions: whether the heads are regions.
    """
    if kind == "identity":
        return CalibrationMap(kind=kind, has_regions=has_regions, heads=(LogitLine(),) * shares.totals.shape[1])
    positives = np.einsum("n,nhb->hb", case_weights, shares.positives)
    negatives = np.einsum("n,nhb->hb", case_weights, shares.totals - shares.positives)
    fitted = (positives.sum(axis=1) > 0) & (negatives.sum(axis=1) > 0)
    if kind == "temperature":
        slope = 1 / _temperature(positives[fitted].sum(axis=0), negatives[fitted].sum(axis=0)) if fitted.any() else 1.0
        return CalibrationMap(kind=kind, has_regions=has_regions, heads=(LogitLine(slope=slope),) * len(positives))
    num_voxels = float(case_weights @ shares.band_voxels)
    heads: list[LogitLine | Knots] = []
    for k in range(len(positives)):
        if not fitted[k]:
            heads.append(LogitLine())
        elif kind == "logistic":
            heads.append(_line(positives[k], negatives[k]))
        else:
            heads.append(_knots(positives[k], negatives[k], num_voxels))
    return CalibrationMap(kind=kind, has_regions=has_regions, heads=tuple(heads))


def unfitted_heads(shares: CaseShares) -> tuple[int, ...]:
    """Heads that have no positive or no negative voxel in any case's band."""
    has_positive = shares.positives.any(axis=(0, 2))
    has_negative = (shares.positives < shares.totals).any(axis=(0, 2))
    return tuple(int(k) for k in np.flatnonzero(~(has_positive & has_negative)))


def _temperature(positives: Array, negatives: Array) -> float:
    """T of the least log loss, from histograms (B,)."""
    logits = bin_logits()

    def loss(log_temperature: float) -> float:
        return _log_loss(logits * math.exp(-log_temperature), positives, negatives)

    limit = math.log(STEEPEST)
    return math.exp(minimize_scalar(loss, bounds=(-limit, limit), method="bounded", options={"xatol": 1e-6}).x)


def _line(positives: Array, negatives: Array) -> LogitLine:
    """Slope and intercept of the least log loss, which is convex, from histograms (B,)."""
    logits, totals = bin_logits(), positives + negatives
    weight = totals.sum()

    def loss_and_gradient(parameters: Array) -> tuple[float, Array]:
        scores = parameters[0] * logits + parameters[1]
        excess = (totals * expit(scores) - positives) / weight
        return _log_loss(scores, positives, negatives) / weight, np.array([excess @ logits, excess.sum()])

    bounds = ((1 / STEEPEST, STEEPEST), (-LOGIT_LIMIT, LOGIT_LIMIT))
    # not L-BFGS-B, whose threaded linear algebra makes two unknowns take a hundred times longer on a busy machine
    options = {"ftol": 1e-14, "gtol": 1e-9, "xtol": 1e-9}
    found = minimize(loss_and_gradient, x0=np.array([1.0, 0.0]), jac=True, method="TNC", bounds=bounds, options=options).x
    return LogitLine(slope=float(found[0]), intercept=float(found[1]))


def _knots(positives: Array, negatives: Array, num_voxels: float) -> Knots:
    """Isotonic regression of the share of positives, clipped to [1 / 2n, 1 - 1 / 2n] for n voxels, from histograms (B,)."""
    totals = positives + negatives
    filled = totals > 0
    regression = IsotonicRegression(y_min=0.0, y_max=1.0)
    regression.fit(bin_logits()[filled], positives[filled] / totals[filled], sample_weight=totals[filled])
    margin = max(0.5 / num_voxels, float(expit(-LOGIT_LIMIT)))
    values = np.clip(regression.y_thresholds_, margin, 1 - margin)
    return Knots(logits=tuple(map(float, regression.X_thresholds_)), probabilities=tuple(map(float, values)))


def _log_loss(scores: Array, positives: Array, negatives: Array) -> float:
    """Log loss of sigmoid(scores), summed over bins; log(1 + exp) without overflow."""
    return float(positives @ np.logaddexp(0, -scores) + negatives @ np.logaddexp(0, scores))
