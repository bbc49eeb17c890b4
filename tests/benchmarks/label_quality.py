"""How good the pool's pseudo-labels of a stage are: by class, by place in the ranking, by distance from the boundary, by confidence.

    python tests/benchmarks/label_quality.py --stage /data/nnUNet_raw/Dataset601_Hippocampus_falls1 --truth /data/hippocampus/labels

It opens the labels of pool cases, which nothing in the product does, so that its figures explain a result and may decide nothing. A
confidence of 0 stands where a stage has no target.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

DISTANCES_MM = (1.0, 2.0, 3.0)
"""Upper ends of the distance classes; a last one is open."""
CONFIDENCES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Lower ends of the confidence classes above the lowest, which starts at 0."""
REACH_MM = 5.0
"""Voxels farther from every boundary, true or labelled, are left out: they are background that nobody doubts."""

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class CaseQuality:
    """Counts of one case; voxels within reach of a boundary."""

    dice: tuple[float, ...]
    """Per class in per cent; NaN where neither image has it."""
    by_distance: Array
    """(distance classes, 2): voxels, and those with a wrong label, by distance from the true boundary."""
    by_confidence: Array
    """(confidence classes, 2): voxels, and those with a wrong label, by confidence."""


def case_quality(labels: Array, truth: Array, confidence: Array, *, classes: Sequence[int], spacing_mm: Sequence[float]) -> CaseQuality:
    """Compare a pseudo-label with the truth.

    Args:
        labels: (*spatial) pseudo-label.
        truth: (*spatial) manual label.
        confidence: (*spatial) in [0, 1].
        classes: foreground labels.
        spacing_mm: voxel size per axis of the arrays.
    """
    distance = boundary_distance(truth, spacing_mm)
    near = np.minimum(distance, boundary_distance(labels, spacing_mm)) <= REACH_MM
    wrong = labels != truth
    return CaseQuality(
        dice=tuple(_dice(labels == label, truth == label) for label in classes),
        by_distance=_counts(np.searchsorted(DISTANCES_MM, distance[near]), wrong[near], len(DISTANCES_MM) + 1),
        by_confidence=_counts(np.searchsorted(CONFIDENCES, confidence[near], side="right"), wrong[near], len(CONFIDENCES) + 1),
    )


def boundary_distance(labels: Array, spacing_mm: Sequence[float]) -> Array:
    """Distance in mm of every voxel from the nearest voxel that has a face neighbour of another label; infinite without a boundary."""
    boundary = np.zeros(labels.shape, dtype=bool)
    for axis in range(labels.ndim):
        differs = np.diff(labels, axis=axis) != 0
        ends = [(0, 0)] * labels.ndim
        for pad in ((0, 1), (1, 0)):
            ends[axis] = pad
            boundary |= np.pad(differs, ends)
    if not boundary.any():
        return np.full(labels.shape, np.inf)
    found: Array = ndimage.distance_transform_edt(~boundary, sampling=spacing_mm)
    return found


def _counts(index: Array, wrong: Array, number: int) -> Array:
    return np.stack([np.bincount(index, minlength=number), np.bincount(index, weights=wrong, minlength=number)], axis=1)


def _dice(one: Array, other: Array) -> float:
    total = int(one.sum() + other.sum())
    return 200.0 * int((one & other).sum()) / total if total else float("nan")


def summarise(cases: Mapping[str, CaseQuality], order: Sequence[str]) -> dict[str, Any]:
    """What the cases of a stage say together.

    Args:
        cases: by case id.
        order: case ids as they are ranked, best first.

    Returns:
        `dice` per class, `dice_by_quarter` of the ranking (mean over classes), and for each class of distance and of confidence its share
        of the voxels within reach and the share of them that is labelled wrong.
    """
    dice = np.array([cases[case].dice for case in order])
    quarters = [float(np.nanmean(part)) for part in np.array_split(dice, 4) if len(part)]
    found: dict[str, Any] = {"cases": len(order), "dice": np.nanmean(dice, axis=0).tolist(), "dice_by_quarter": quarters}
    ends = {"by_distance": [f"<= {d:g} mm" for d in DISTANCES_MM] + ["beyond"], "by_confidence": ["below", *map(str, CONFIDENCES)]}
    for name, rows in ends.items():
        counts = sum(getattr(case, name) for case in cases.values())
        found[name] = {
            row: {"share": float(n / counts[:, 0].sum()), "wrong": float(bad / n) if n else float("nan")}
            for row, (n, bad) in zip(rows, counts, strict=True)
        }
    return found


def stage_quality(stage: Path, truth: Path) -> dict[str, Any]:
    """Summary of a stage dataset's pool cases against the labels in a folder."""
    sidecar, dataset = (json.loads((stage / name).read_text()) for name in ("nnssl.json", "dataset.json"))
    classes = sorted(int(value) for value in dataset["labels"].values() if int(value) > 0)
    ending = dataset["file_ending"]
    cases = {}
    for case in sidecar["pool_cases"]:
        images = [sitk.ReadImage(folder / f"{case}{ending}") for folder in (stage / "labelsTr", truth, stage / "confidenceTr")]
        labels, true, confidence = map(sitk.GetArrayFromImage, images)
        spacing = images[0].GetSpacing()[::-1]
        cases[case] = case_quality(labels.astype(int), true.astype(int), confidence, classes=classes, spacing_mm=spacing)
    return summarise(cases, sidecar["pool_cases"])


def main() -> int:
    """Print the summary as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", type=Path, nargs="+", required=True, help="folders of stage datasets in nnUNet_raw")
    parser.add_argument("--truth", type=Path, required=True, help="folder of the pool's true labels")
    arguments = parser.parse_args()
    json.dump({str(stage): stage_quality(stage, arguments.truth) for stage in arguments.stage}, sys.stdout, indent=1)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
