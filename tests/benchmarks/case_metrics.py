"""Dice, surface Dice and 95th percentile of the surface distance (HD95) of label images, per class.

Distances come from `scipy.ndimage.distance_transform_edt`: none of nnU-Net's own dependencies has a surface Dice or an HD95. Definitions as
in Metrics Reloaded (Maier-Hein, Reinke et al. 2024): a surface is the set of foreground voxels with a face neighbour outside the object
(outside the image counts as outside), distances go from voxel centre to nearest voxel centre in mm, and HD95 is the larger of the two
directions' percentiles. Every surface voxel counts alike, whatever its faces' area, which is exact enough where spacing is isotropic.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunet_ssl.data.files import replacing

METRICS = ("dice", "surface_dice", "hd95_mm")
"""Names of the columns; the first two in per cent. Each is followed by `_<class>`."""
VOLUMES = ("volume_mm3", "true_volume_mm3")
"""Columns of a case beside its metrics, named in the same way."""
TOLERANCE_MM = 1.0

Mask = np.ndarray[Any, np.dtype[np.bool_]]
Distances = np.ndarray[Any, np.dtype[np.float64]]

_ROUNDING_MM = 1e-6
"""Spacing is often stored in single precision; a distance of exactly the tolerance must not fail by its last digit."""


def object_metrics(prediction: Mask, truth: Mask, *, spacing_mm: Sequence[float], tolerance_mm: float = TOLERANCE_MM) -> dict[str, float]:
    """The metrics of one object.

    Args:
        prediction: (*spatial) bool.
        truth: (*spatial) bool.
        spacing_mm: voxel size per axis of the arrays, in their order.
        tolerance_mm: distance up to which a surface voxel counts as met.

    Returns:
        By the names in `METRICS`. Both objects empty: all NaN, as nnU-Net has it. One of them empty: Dice and surface Dice 0, and HD95 the
        image's diagonal (the largest distance that there can be), so that a missed object makes a mean worse instead of vanishing from it.

    Raises:
        ValueError: if the shapes differ, or the spacing has another number of axes.
    """
    if prediction.shape != truth.shape or len(spacing_mm) != truth.ndim:
        raise ValueError(f"prediction {prediction.shape}, truth {truth.shape} and spacing {tuple(spacing_mm)} do not fit each other")
    predicted, true = int(prediction.sum()), int(truth.sum())
    if not predicted and not true:
        return dict.fromkeys(METRICS, math.nan)
    if not predicted or not true:
        diagonal = math.hypot(*((size - 1) * step for size, step in zip(truth.shape, spacing_mm, strict=True)))
        return {"dice": 0.0, "surface_dice": 0.0, "hd95_mm": diagonal}
    there, back = surface_distances(prediction, truth, spacing_mm)
    met = np.count_nonzero(np.concatenate([there, back]) <= tolerance_mm + _ROUNDING_MM)
    return {
        "dice": 200.0 * np.count_nonzero(prediction & truth) / (predicted + true),
        "surface_dice": 100.0 * met / (len(there) + len(back)),
        "hd95_mm": float(max(np.percentile(there, 95), np.percentile(back, 95))),
    }


def surface_distances(one: Mask, other: Mask, spacing_mm: Sequence[float]) -> tuple[Distances, Distances]:
    """Distance in mm of every surface voxel of one object to the other's surface, and the other way round; neither may be empty."""
    # nothing outside the box around both matters: neighbours there lie outside both objects
    (box,) = ndimage.find_objects((one | other).astype(np.uint8))
    surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in (one[box], other[box])]
    to_one, to_other = (ndimage.distance_transform_edt(~surface, sampling=spacing_mm) for surface in surfaces)
    return to_other[surfaces[0]], to_one[surfaces[1]]


def case_metrics(
    prediction: np.ndarray[Any, Any], truth: np.ndarray[Any, Any], *, classes: Mapping[str, int], spacing_mm: Sequence[float]
) -> dict[str, float]:
    """The metrics of one case, named `<metric>_<class>`.

    Args:
        prediction: (*spatial) label image.
        truth: (*spatial) label image.
        classes: label of each class; background (0) is left out if it is among them.
        spacing_mm: voxel size per axis of the arrays.
    """
    found = {
        name: object_metrics(prediction == label, truth == label, spacing_mm=spacing_mm) for name, label in classes.items() if label != 0
    }
    return {f"{metric}_{name}": found[name][metric] for metric in METRICS for name in found}


def folder_cases(predictions: Path, truths: Path, *, cases: Iterable[str], classes: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """By case, in order of their names, every `<metric>_<class>` and the two volumes of each class.

    Args:
        predictions: folder of `<case>.nii.gz`.
        truths: folder of files with the same names.
        cases: which to evaluate.
        classes: label of each class.

    Raises:
        ValueError: if there are no cases, or two images of a case do not have the same size and spacing.
    """
    found = {case: _read_and_compare(predictions / f"{case}.nii.gz", truths / f"{case}.nii.gz", classes) for case in sorted(cases)}
    if not found:
        raise ValueError(f"no cases to evaluate in {predictions}")
    return found


def mean_metrics(cases: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Mean over cases of every `<metric>_<class>`, and first of all `dice`, the mean of the classes' Dice.

    A case that has a class in neither image says nothing about it; so does nnU-Net's `foreground_mean`, which `dice` agrees with.

    Args:
        cases: as `folder_cases` returns them.
    """
    names = [name for name in next(iter(cases.values())) if name.startswith(METRICS)]
    means = {name: _mean(case[name] for case in cases.values()) for name in names}
    return {"dice": _mean(value for name, value in means.items() if name.startswith("dice_")), **means}


def write_cases(path: Path, cases: Mapping[str, Mapping[str, float]]) -> None:
    """A CSV with a row per case, as `read_cases` reads it."""
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["case", *next(iter(cases.values()))], lineterminator="\n")
        writer.writeheader()
        writer.writerows({"case": case, **{name: round(value, 4) for name, value in of_case.items()}} for case, of_case in cases.items())


def read_cases(path: Path) -> dict[str, dict[str, float]]:
    """What `write_cases` has written."""
    with path.open(newline="") as file:
        return {row.pop("case"): {name: float(value) for name, value in row.items()} for row in csv.DictReader(file)}


def _read_and_compare(prediction: Path, truth: Path, classes: Mapping[str, int]) -> dict[str, float]:
    images = [sitk.ReadImage(path) for path in (prediction, truth)]
    sizes, spacings = [image.GetSize() for image in images], [image.GetSpacing() for image in images]
    if sizes[0] != sizes[1] or not np.allclose(*spacings):
        raise ValueError(f"{prediction} has size {sizes[0]} and spacing {spacings[0]}, {truth} has {sizes[1]} and {spacings[1]}")
    arrays = [sitk.GetArrayFromImage(image) for image in images]
    voxel = math.prod(spacings[1])
    volumes = {
        f"{column}_{name}": voxel * np.count_nonzero(array == label)
        for column, array in zip(VOLUMES, arrays, strict=True)
        for name, label in classes.items()
        if label != 0
    }
    # SimpleITK's arrays have their axes in reverse
    return {**case_metrics(arrays[0], arrays[1], classes=classes, spacing_mm=spacings[1][::-1]), **volumes}


def _mean(values: Iterable[float]) -> float:
    """Of the numbers among the values; NaN if there are none."""
    numbers = [value for value in values if not math.isnan(value)]
    return float(np.mean(numbers)) if numbers else math.nan
