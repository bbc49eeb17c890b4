"""Do pool images look like the labelled ones? Two-sample tests on simple features of the preprocessed images and on what is predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp
from tqdm import tqdm

from nnunet_ssl.nnunet_api.preprocessed_case import open_image, open_segmentation

LEVEL = 0.05
"""Of all tests together (Bonferroni)."""
QUANTILES = (0.05, 0.5, 0.95)
_EMPTY = 1e-4
"""Of normalised intensities: how close to that of empty voxels one counts as empty."""


@dataclass(frozen=True, kw_only=True)
class Shift:
    """One feature, labelled cases against pool cases."""

    feature: str
    labelled_median: float
    pool_median: float
    statistic: float
    """Kolmogorov-Smirnov distance of the two distributions, in [0, 1]."""
    p: float
    """Of the two-sample test, times the number of features (and of groups, where those are compared), at most 1."""

    @property
    def is_shifted(self) -> bool:
        return self.p < LEVEL


def image_features(folder: Path, cases: Sequence[str], *, label: str) -> dict[str, list[float]]:
    """Intensity and sharpness of preprocessed images, inside nnU-Net's nonzero mask.

    Voxels inside that are as empty as those outside are left out: the mask of a labelled case has manual foreground on them, that of a pool
    case has not, and holes that nnU-Net fills are in both.

    Where the plans normalise every image by its own mean and deviation, both are alike everywhere and the quantiles say how the histogram
    is shaped.

    Args:
        folder: nnU-Net's preprocessed files.
        cases: which of them.
        label: for the progress bar.

    Returns:
        Per feature, the values of the cases in their order.
    """
    features: dict[str, list[float]] = {}
    for case in tqdm(cases, desc=f"features of {label}"):
        image = np.asarray(open_image(folder, case)[:], dtype=np.float32)
        inside = _seen(image, np.asarray(open_segmentation(folder, case)[0]) >= 0)
        for channel, values in enumerate(image):
            for name, value in _channel_features(values, inside).items():
                features.setdefault(f"{name}, channel {channel}", []).append(value)
    return features


def _seen(image: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels of the mask that differ from what lies outside it in some channel; (X, Y, Z)."""
    if mask.all():
        return mask
    outside = np.median(image[:, ~mask], axis=1)
    return mask & ~np.isclose(image, outside[:, None, None, None], atol=_EMPTY).all(axis=0)


def _channel_features(values: NDArray[np.float32], inside: NDArray[np.bool_]) -> dict[str, float]:
    if not inside.any():
        inside = np.ones_like(inside)
    seen = values[inside]
    gradients = [found.mean() for axis in range(values.ndim) if (found := _steps(values, inside, axis)).size]
    named = {f"intensity, {100 * q:.0f}th percentile": float(np.quantile(seen, q)) for q in QUANTILES}
    return {**named, "intensity, standard deviation": float(seen.std()), "sharpness": float(np.mean(gradients)) if gradients else 0.0}


def _steps(values: NDArray[np.float32], inside: NDArray[np.bool_], axis: int) -> NDArray[np.float32]:
    """Absolute differences of neighbours that both lie inside: the edge of the mask is none of the image's own."""
    both = np.logical_and(*(np.take(inside, np.arange(inside.shape[axis] - 1) + shift, axis=axis) for shift in (0, 1)))
    return np.asarray(np.abs(np.diff(values, axis=axis))[both])


def compare(
    labelled: Mapping[str, Sequence[float | None]], pool: Mapping[str, Sequence[float | None]], *, num_comparisons: int = 1
) -> list[Shift]:
    """Test every feature that both have, the most different first; missing values are left out.

    Args:
        labelled: per feature, the values of labelled cases.
        pool: the same of pool cases.
        num_comparisons: how many such comparisons are made, of groups for instance; p is corrected for all.
    """
    both = {name: (_known(labelled[name]), _known(pool[name])) for name in sorted(set(labelled) & set(pool))}
    both = {name: values for name, values in both.items() if all(map(len, values))}
    shifts = []
    for name, (one, other) in both.items():
        found = ks_2samp(one, other)
        shifts.append(
            Shift(
                feature=name,
                labelled_median=float(np.median(one)),
                pool_median=float(np.median(other)),
                statistic=float(found.statistic),
                p=min(1.0, float(found.pvalue) * len(both) * num_comparisons),
            )
        )
    return sorted(shifts, key=lambda shift: (-shift.statistic, shift.feature))


def _known(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([v for v in values if v is not None and np.isfinite(v)], dtype=np.float64)
