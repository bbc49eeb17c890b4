"""A held-out case reduced to histograms: evidence against manual labels that its teacher never saw, in memory that does not grow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.confidence.calibration_map import LOGIT_LIMIT, clipped_logits
from nnunet_ssl.confidence.evidence import BoolArray, Evidence
from nnunet_ssl.confidence.foreground_band import foreground_band
from nnunet_ssl.errors import StateError

NUM_BINS = 1200
"""B, histogram bins, uniform in the logit: 0.02 wide, so a probability lies within 0.0025 of its bin's centre."""
_BIN_WIDTH = 2 * LOGIT_LIMIT / NUM_BINS


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOutCounts:
    """What calibration keeps of one held-out case: voxel counts, float64. H heads, B bins."""

    totals: NDArray[np.float64]
    """Voxels of the foreground band whose M1_k falls in the bin, (H, B)."""
    positives: NDArray[np.float64]
    """Those of them that truly belong to head k, (H, B)."""
    true_voxels: NDArray[np.float64]
    """Voxels of the whole image that truly belong to the head, (H,)."""
    predicted_voxels: NDArray[np.float64]
    """Voxels of the whole image that are predicted as the head, (H,)."""
    overlap: NDArray[np.float64]
    """Voxels of the whole image that are both, (H,)."""

    def __post_init__(self) -> None:
        """Take the arrays as float64 and check that they fit each other.

        Raises:
            StateError: if they do not.
        """
        for field in fields(self):
            object.__setattr__(self, field.name, np.asarray(getattr(self, field.name), dtype=np.float64))
        num_heads = len(self.totals) if self.totals.ndim else 0
        for field in fields(self):
            expected = (num_heads, NUM_BINS) if field.name in ("totals", "positives") else (num_heads,)
            if (found := getattr(self, field.name).shape) != expected:
                raise StateError(f"{field.name} of a held-out case has shape {found}; expected {expected}.")

    @property
    def band_voxels(self) -> int:
        """Voxels of the foreground band that carry a manual label."""
        return int(self.totals[0].sum())

    @property
    def dice(self) -> NDArray[np.float64]:
        """Dice per head, (H,); NaN where a head is neither true nor predicted."""
        sizes = self.true_voxels + self.predicted_voxels
        return np.divide(2 * self.overlap, sizes, out=np.full_like(sizes, np.nan), where=sizes > 0)


class CaseShares(NamedTuple):
    """Histograms of N held-out cases in which every case has the total 1 per head."""

    names: tuple[str, ...]
    """Ids of the cases, in order."""
    totals: NDArray[np.float64]
    """(N, H, B)."""
    positives: NDArray[np.float64]
    """(N, H, B)."""
    band_voxels: NDArray[np.float64]
    """Voxels that each case's histogram was made of, (N,)."""


def count_held_out(evidence: Evidence, truth: NDArray[Any], valid: BoolArray, *, written: BoolArray | None = None) -> HeldOutCounts:
    """Reduce a held-out case to histograms.

    Args:
        evidence: of a teacher that never saw the case.
        truth: manual labels, (*spatial) int with the head's number, for regions (R, *spatial) bool. Negative labels count as invalid.
        valid: (*spatial) bool, false where there is no manual label: ignore label, padding, outside the image.
        written: regions as a label map of the evidence has them, (R, *spatial), where it contradicts single regions; else as predicted.

    Raises:
        StateError: if the shapes do not fit each other or a label has no head.
    """
    labelled = labelled_voxels(truth, valid, evidence.mean.shape, has_regions=evidence.has_regions)
    in_band = labelled & foreground_band(evidence.foreground())
    predicted = evidence.predicted_labels() if written is None else written
    num_heads = len(evidence.mean)
    counts: dict[str, list[Any]] = {field.name: [] for field in fields(HeldOutCounts)}
    for k in range(num_heads):
        true_k, predicted_k = (of_head(labels, k, has_regions=evidence.has_regions) & labelled for labels in (truth, predicted))
        bins = _bin_indices(evidence.mean[k][in_band])
        counts["totals"].append(np.bincount(bins, minlength=NUM_BINS))
        counts["positives"].append(np.bincount(bins[true_k[in_band]], minlength=NUM_BINS))
        counts["true_voxels"].append(true_k.sum())
        counts["predicted_voxels"].append(predicted_k.sum())
        counts["overlap"].append((true_k & predicted_k).sum())
    return HeldOutCounts(**{name: np.array(per_head, dtype=np.float64) for name, per_head in counts.items()})


def case_shares(cases: Mapping[str, HeldOutCounts]) -> CaseShares:
    """Histograms of all cases with a labelled voxel in the band, by case id, each voxel weighing 1 / (such voxels of its case).

    Raises:
        StateError: if the cases differ in the number of heads.
    """
    if len({len(case.totals) for case in cases.values()}) > 1:
        raise StateError(f"held-out cases have different numbers of heads: {sorted({len(case.totals) for case in cases.values()})}.")
    names = tuple(name for name in sorted(cases) if cases[name].band_voxels)
    used = [cases[name] for name in names]
    num_heads = max((len(case.totals) for case in cases.values()), default=0)
    voxels = np.array([case.band_voxels for case in used], dtype=np.float64)
    histograms = np.array([(case.totals, case.positives) for case in used]).reshape(len(used), 2, num_heads, NUM_BINS)
    shares = histograms / voxels[:, None, None, None]
    return CaseShares(names, shares[:, 0], shares[:, 1], voxels)


def bin_logits() -> NDArray[np.float64]:
    """Logits at the bins' centres, (B,)."""
    return (np.arange(NUM_BINS, dtype=np.float64) + 0.5) * _BIN_WIDTH - LOGIT_LIMIT


def labelled_voxels(truth: NDArray[Any], valid: BoolArray, shape: tuple[int, ...], *, has_regions: bool) -> BoolArray:
    """Voxels that carry a manual label.

    Args:
        truth: (*spatial) int, for regions (R, *spatial) bool.
        valid: (*spatial) bool.
        shape: of the probabilities, (H, *spatial).
        has_regions: whether the labels are regions.

    Returns:
        (*spatial) bool.

    Raises:
        StateError: if the shapes do not fit each other or a label has no head.
    """
    expected = shape if has_regions else shape[1:]
    if truth.shape != expected or valid.shape != shape[1:]:
        raise StateError(f"labels have shape {truth.shape} and validity {valid.shape}; the evidence asks for {expected} and {shape[1:]}.")
    valid = valid.astype(bool)
    if has_regions:
        return valid
    labelled = np.asarray(valid & (truth >= 0))
    if labelled.any() and (highest := truth[labelled].max()) >= shape[0]:
        raise StateError(f"the manual label has class {highest}, the evidence only {shape[0]} classes.")
    return labelled


def of_head(labels: NDArray[Any], head: int, *, has_regions: bool) -> BoolArray:
    """Voxels that carry one class (region) of a labelling, (*spatial) bool."""
    return labels[head].astype(bool) if has_regions else np.asarray(labels == head)


def _bin_indices(probabilities: NDArray[Any]) -> NDArray[np.intp]:
    indices = ((clipped_logits(probabilities) + LOGIT_LIMIT) / _BIN_WIDTH).astype(np.intp)
    return np.minimum(indices, NUM_BINS - 1)
