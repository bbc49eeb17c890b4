"""Agreement between two labellings of a case: uncalibrated confidence from it, and how much of the foreground changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.confidence.evidence import BoolArray, FloatArray
from nnunet_ssl.errors import StateError


class Agreement(NamedTuple):
    """Confidence of the voxels on which two labellings agree, and those to be ignored since they do not."""

    confidence: FloatArray
    """(1, *spatial), for regions (R, *spatial), in [0, 1]; 0 where ignored."""
    ignored: BoolArray
    """Same shape, true where the labels differ."""


class Change(NamedTuple):
    """Voxels of one class (region) in either of two labellings, and how many of them are in one only."""

    changed: int
    total: int

    @property
    def share(self) -> float | None:
        """Changed part of the total, in [0, 1]; None where the class is in neither."""
        return self.changed / self.total if self.total else None


def agreement_confidence(
    teacher_labels: NDArray[Any], student_labels: NDArray[Any], teacher_confidence: FloatArray, student_confidence: FloatArray
) -> Agreement:
    """Confidence from agreement, where there is no calibration: the mean of both where the labels agree, else the voxel is ignored.

    Args:
        teacher_labels: (*spatial) int, for regions (R, *spatial) bool.
        student_labels: same shape.
        teacher_confidence: (1, *spatial), for regions (R, *spatial), in [0, 1].
        student_confidence: same shape.

    Raises:
        StateError: if the shapes do not fit each other.
    """
    _require_equal_shapes(teacher_labels, student_labels)
    differ = np.asarray(teacher_labels != student_labels)
    ignored = differ if teacher_confidence.ndim == differ.ndim else differ[None]
    if not teacher_confidence.shape == student_confidence.shape == ignored.shape:
        raise StateError(f"confidences have shapes {teacher_confidence.shape} and {student_confidence.shape}; expected {ignored.shape}.")
    mean = (teacher_confidence + student_confidence) * np.float32(0.5)
    return Agreement(np.where(ignored, np.float32(0), mean), ignored)


def changed_foreground(
    previous_labels: NDArray[Any], new_labels: NDArray[Any], num_classes: int, *, has_regions: bool = False
) -> dict[int, Change]:
    """Per foreground class, the voxels that carry it in either labelling and those that carry it in one only.

    Args:
        previous_labels: (*spatial) int, for regions (R, *spatial) bool.
        new_labels: same shape.
        num_classes: classes including background, for regions R.
        has_regions: whether the labels are regions.

    Returns:
        By class 1 to num_classes - 1, for regions by region 0 to R - 1.

    Raises:
        StateError: if the shapes differ or a label is out of range.
    """
    _require_equal_shapes(previous_labels, new_labels)
    if has_regions:
        return _changed_regions(previous_labels.astype(bool), new_labels.astype(bool), num_classes)
    for labels in (previous_labels, new_labels):
        if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
            raise StateError(f"labels lie in [{labels.min()}, {labels.max()}]; expected 0 to {num_classes - 1}.")
    pairs = previous_labels.astype(np.int64).ravel() * num_classes + new_labels.ravel()
    counts = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    either = counts.sum(axis=0) + counts.sum(axis=1) - counts.diagonal()
    return {k: Change(int(either[k] - counts[k, k]), int(either[k])) for k in range(1, num_classes)}


def pooled_changes(cases: Iterable[Mapping[int, Change]]) -> dict[int, Change]:
    """Counts per class summed over cases, so that large structures weigh as much as they are large."""
    pooled: dict[int, Change] = {}
    for case in cases:
        for k, change in case.items():
            before = pooled.get(k, Change(0, 0))
            pooled[k] = Change(before.changed + change.changed, before.total + change.total)
    return dict(sorted(pooled.items()))


def overall_change(changes: Mapping[int, Change]) -> Change:
    """All classes together; a voxel that went from one foreground class to another counts once for each."""
    return Change(sum(c.changed for c in changes.values()), sum(c.total for c in changes.values()))


def _changed_regions(previous: BoolArray, new: BoolArray, num_regions: int) -> dict[int, Change]:
    if len(previous) != num_regions:
        raise StateError(f"labels have {len(previous)} regions; expected {num_regions}.")
    return {r: Change(int((previous[r] ^ new[r]).sum()), int((previous[r] | new[r]).sum())) for r in range(num_regions)}


def _require_equal_shapes(one: NDArray[Any], other: NDArray[Any]) -> None:
    if one.shape != other.shape:
        raise StateError(f"the two labellings have shapes {one.shape} and {other.shape}; they must be of the same case.")
