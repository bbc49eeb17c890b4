"""How often the labels of a held-out case are right, by predicted class and calibrated confidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.confidence.evidence import BoolArray, FloatArray
from nnunet_ssl.confidence.held_out import labelled_voxels
from nnunet_ssl.confidence.voxel_confidence import confidence_of_written
from nnunet_ssl.errors import StateError

NUM_CONFIDENCE_BINS = 50
"""C, uniform bins of the confidence on [0, 1]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PredictionCounts:
    """One held-out case: labelled voxels of the foreground band by what is predicted there and how confidently. H heads, C bins.

    A voxel counts once, for its predicted class. For regions it counts once per region, whichever side is predicted.
    """

    totals: NDArray[np.float64]
    """Voxels, (H, C)."""
    correct: NDArray[np.float64]
    """Those whose prediction is right, (H, C)."""
    voxels: int
    """Labelled voxels of the band; 1 / voxels is the weight of each, so that cases weigh the same."""

    def __post_init__(self) -> None:
        shapes = {self.totals.shape, self.correct.shape}
        if len(shapes) > 1 or self.totals.ndim != 2 or self.totals.shape[1] != NUM_CONFIDENCE_BINS:
            raise StateError(f"prediction counts have shapes {sorted(shapes)}; expected (heads, {NUM_CONFIDENCE_BINS}).")


class PooledCounts(NamedTuple):
    """The counts of N held-out cases."""

    totals: NDArray[np.float64]
    """(N, H, C)."""
    correct: NDArray[np.float64]
    """(N, H, C)."""
    voxels: NDArray[np.float64]
    """(N,), 1 or more."""


def count_predictions(
    q: FloatArray, truth: NDArray[Any], valid: BoolArray, band: BoolArray, *, has_regions: bool, written: BoolArray | None = None
) -> PredictionCounts:
    """Count right and wrong labels of a held-out case, the label being what q says: its argmax, for regions q > 0.5 or what is written.

    This takes a look of its own at the evidence, once the map is known: softmax heads are normalised together, so the calibrated
    confidence of a voxel does not follow from histograms of single heads.

    Args:
        q: calibrated probabilities, (H, *spatial) in [0, 1].
        truth: manual labels, (*spatial) int with the head's number, for regions (R, *spatial) bool. Negative labels count as invalid.
        valid: (*spatial) bool, false where there is no manual label.
        band: (*spatial) bool, the foreground band.
        has_regions: whether the heads are regions.
        written: regions as a label map of q has them, (R, *spatial), where it contradicts single regions; else q > 0.5.

    Raises:
        StateError: if the shapes do not fit each other or a label has no head.
    """
    labelled = labelled_voxels(truth, valid, q.shape, has_regions=has_regions)
    if band.shape != labelled.shape:
        raise StateError(f"the foreground band has shape {band.shape}; expected {labelled.shape}.")
    counted = labelled & band
    q, truth = q[:, counted], truth[..., counted]
    if has_regions:
        labels = q > 0.5 if written is None else written[:, counted]
        heads, right = np.arange(len(q))[:, None], labels == truth.astype(bool)
        confidence = confidence_of_written(np.maximum(q, 1 - q), q > 0.5, labels)
    else:
        heads, confidence = q.argmax(axis=0), q.max(axis=0)
        right = heads == truth
    cells = heads * NUM_CONFIDENCE_BINS + confidence_bins(confidence)
    size, shape = len(q) * NUM_CONFIDENCE_BINS, (len(q), NUM_CONFIDENCE_BINS)
    totals, correct = (np.bincount(c, minlength=size).astype(np.float64).reshape(shape) for c in (cells.ravel(), cells[right]))
    return PredictionCounts(totals=totals, correct=correct, voxels=int(counted.sum()))


def confidence_bins(confidence: NDArray[Any]) -> NDArray[np.intp]:
    """Bin of each confidence in [0, 1], same shape; a bin's lower edge belongs to it, even rounded down to float32."""
    return np.minimum((confidence.astype(np.float64) * NUM_CONFIDENCE_BINS + 1e-5).astype(np.intp), NUM_CONFIDENCE_BINS - 1)


def pool_counts(cases: Mapping[str, PredictionCounts]) -> PooledCounts:
    """All cases that have voxels, by case id.

    Raises:
        StateError: if there are no cases or they differ in the number of heads.
    """
    shapes = sorted({case.totals.shape for case in cases.values()})
    if len(shapes) != 1:
        raise StateError(f"prediction counts of {len(cases)} held-out cases have shapes {shapes}; expected cases of one shape.")
    used = [cases[name] for name in sorted(cases) if cases[name].voxels]
    totals, correct = (np.array([getattr(case, name) for case in used]).reshape(len(used), *shapes[0]) for name in ("totals", "correct"))
    return PooledCounts(totals, correct, np.array([case.voxels for case in used], dtype=np.float64))
