"""What held-out cases say about labels by class: confident enough to be trusted, wrong often enough to be unlearned, never found."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t
from sklearn.isotonic import IsotonicRegression

from nnunet_ssl.confidence.evidence import BoolArray, FloatArray, LabelArray
from nnunet_ssl.confidence.held_out import HeldOutCounts
from nnunet_ssl.confidence.prediction_counts import NUM_CONFIDENCE_BINS, PredictionCounts, confidence_bins, pool_counts
from nnunet_ssl.errors import ConfigError, StateError

UnlearningGate = BoolArray
"""(H, bins) bool: the predicted classes (regions) and bins of the confidence, uniform on [0, 1], in which labels may be unlearned."""

DEFAULT_BOUNDS = (0.5, 0.99)
"""Range of the thresholds of classes that are predicted at all."""
BLIND_RECALL = 0.1
"""Recall below which a teacher counts as blind for a class."""
NUM_GATE_BINS = 10
"""Bins of the confidence on [0, 1] that the gate opens or keeps shut as a whole."""
GATE_CASES = 2
"""Held-out cases with voxels in a bin without which it stays shut."""
GATE_LEVEL = 0.95
"""One-sided level of the lower bound of the share of wrong labels, which must exceed 1/2."""


def class_thresholds(
    cases: Mapping[str, PredictionCounts], *, precision: float, bounds: tuple[float, float] = DEFAULT_BOUNDS
) -> tuple[float, ...]:
    """Per class (region), the smallest confidence at which labels are right with a wanted precision.

    The precision is the marginal one, of voxels *near* the threshold: the average above it would let many doubtful voxels pass in the
    shadow of the certain ones. It is made nondecreasing in the confidence by isotonic regression over the confidence bins, every case
    weighing the same; the threshold is the lower edge of the first bin that reaches the precision.

    Args:
        cases: held-out cases by id.
        precision: in (0, 1], share of right labels that is wanted at the threshold.
        bounds: thresholds found outside are moved to the nearer bound; a class that reaches the precision nowhere has the upper one.

    Returns:
        tau per head in [0, 1]. A class that is predicted nowhere has 1: nothing was measured, nothing of it is to be trusted. For
        regions both sides count together, at the confidence of the side that is predicted.

    Raises:
        ConfigError: if the precision or the bounds are out of range.
        StateError: if there are no cases or they differ in the number of heads.
    """
    if not 0 < precision <= 1:
        raise ConfigError(f"the wanted precision is {precision!r}; expected a number in (0, 1].")
    if not 0 <= bounds[0] <= bounds[1] <= 1:
        raise ConfigError(f"the bounds of the thresholds are {bounds!r}; expected two ascending numbers in [0, 1].")
    pooled = pool_counts(cases)
    totals, correct = (np.einsum("nhc,n->hc", counts, 1 / pooled.voxels) for counts in (pooled.totals, pooled.correct))
    return tuple(_threshold(totals[k], correct[k], precision, bounds) for k in range(len(totals)))


def blind_classes(
    cases: Mapping[str, HeldOutCounts],
    *,
    has_regions: bool,
    untaught: Mapping[str, Collection[int]] | None = None,
    least_recall: float = BLIND_RECALL,
) -> tuple[int, ...]:
    """Foreground heads that held-out cases contain and the teacher hardly ever finds.

    Args:
        cases: held-out cases by id.
        has_regions: whether the heads are regions; of classes the first is background and never among those returned.
        untaught: by case, heads that none of its teacher's training cases has; what that teacher misses of them says nothing.
        least_recall: a head is blind below this share of its true voxels, pooled over all cases.

    Returns:
        Heads, ascending. One that no case contains whose teacher has learned it is not among them: nothing is known about it.
    """
    if not cases:
        return ()
    taught = {name: ~np.isin(np.arange(len(case.totals)), list((untaught or {}).get(name, ()))) for name, case in cases.items()}
    true = np.sum([case.true_voxels * taught[name] for name, case in cases.items()], axis=0)
    found = np.sum([case.overlap * taught[name] for name, case in cases.items()], axis=0)
    blind = (true > 0) & (found < least_recall * true)
    return tuple(int(k) for k in np.flatnonzero(blind) if has_regions or k > 0)


def unlearning_gate(cases: Mapping[str, PredictionCounts], *, num_bins: int = NUM_GATE_BINS) -> UnlearningGate:
    """Where unlearning is allowed: by predicted class (region) and confidence bin.

    A bin opens if the lower end of a one-sided 95 % interval of the share of wrong labels lies above 1/2. The share is the mean of the
    cases' own shares, and the interval is Student's t over the n cases that have voxels in the bin, n - 1 degrees of freedom. Its
    standard error is the one between cases, or, where that is larger, the one that the voxels alone would give were they independent
    (each case's share taken as (wrong + 1/2) / (voxels + 1)): two cases with one wrong voxel each agree perfectly and yet show nothing.
    Bins are not corrected for their number.

    Args:
        cases: held-out cases by id.
        num_bins: bins of the confidence on [0, 1]; a divisor of 50.

    Returns:
        (H, num_bins) bool, true where unlearning is allowed; for regions both sides together.

    Raises:
        ConfigError: if 50 cannot be divided by the number of bins.
        StateError: if there are no cases or they differ in the number of heads.
    """
    if num_bins < 1 or NUM_CONFIDENCE_BINS % num_bins:
        raise ConfigError(f"the gate has {num_bins} confidence bins; expected a divisor of {NUM_CONFIDENCE_BINS}.")
    pooled = pool_counts(cases)
    num_cases, num_heads, _ = pooled.totals.shape
    shape = (num_cases, num_heads, num_bins, NUM_CONFIDENCE_BINS // num_bins)
    totals, correct = (counts.reshape(shape).sum(axis=-1) for counts in (pooled.totals, pooled.correct))
    return _lower_bound(totals - correct, totals) > 0.5


def gate_at(gate: UnlearningGate, predicted: LabelArray | BoolArray, confidence: FloatArray) -> BoolArray:
    """Whether unlearning is allowed at each voxel.

    Args:
        gate: (H, bins) bool.
        predicted: the pseudo-label, (*spatial) int, for regions (R, *spatial) bool; where it is negative there is nothing to unlearn.
        confidence: its calibrated confidence, (1, *spatial), for regions (R, *spatial), in [0, 1].

    Returns:
        Bool, of the confidence's shape.

    Raises:
        StateError: if the shapes do not fit each other.
    """
    has_regions = predicted.ndim == confidence.ndim
    expected = (len(gate), *predicted.shape[1:]) if has_regions else (1, *predicted.shape)
    if confidence.shape != expected or NUM_CONFIDENCE_BINS % gate.shape[1]:
        raise StateError(f"confidence has shape {confidence.shape}, expected {expected}, and the gate {gate.shape[1]} bins.")
    bins = confidence_bins(confidence) // (NUM_CONFIDENCE_BINS // gate.shape[1])
    heads: NDArray[Any] = np.arange(len(gate)).reshape(-1, *[1] * (confidence.ndim - 1)) if has_regions else predicted[None]
    return np.asarray(gate[heads, bins] & (heads >= 0))


def _threshold(totals: NDArray[np.float64], correct: NDArray[np.float64], precision: float, bounds: tuple[float, float]) -> float:
    filled = np.flatnonzero(totals)
    if not len(filled):
        return 1.0
    marginal = IsotonicRegression().fit_transform(filled, correct[filled] / totals[filled], sample_weight=totals[filled])
    # the tolerance is for precisions such as 0.9 that a share reaches exactly
    reached = filled[marginal >= precision - 1e-9]
    threshold = reached[0] / NUM_CONFIDENCE_BINS if len(reached) else bounds[1]
    return float(min(max(threshold, bounds[0]), bounds[1]))


def _lower_bound(wrong: NDArray[np.float64], totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lower end of the interval of the share of wrong labels, from voxel counts (N, ...); minus infinity with fewer than 2 cases."""
    seen = totals > 0
    n = seen.sum(axis=0)
    shares = np.divide(wrong, totals, out=np.zeros_like(wrong), where=seen)
    mean = shares.sum(axis=0) / np.maximum(n, 1)
    between = (np.square(shares - mean) * seen).sum(axis=0) / np.maximum(n - 1, 1) / np.maximum(n, 1)
    smoothed = (wrong + 0.5) / (totals + 1)
    within = np.divide(smoothed * (1 - smoothed), totals, out=np.zeros_like(wrong), where=seen).sum(axis=0) / np.square(np.maximum(n, 1))
    half_width = student_t.ppf(GATE_LEVEL, np.maximum(n - 1, 1)) * np.sqrt(np.maximum(between, within))
    return np.where(n >= GATE_CASES, mean - half_width, -np.inf)
