"""Anatomy of a synthetic case: a brain with a tumour whose classes are nested, before any scanner has seen it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

CHANNELS = ("t1", "t1ce", "t2", "flair")
"""Channel names, in the order of nnU-Net's file endings `_0000` to `_0003`."""
LABELS = {"background": 0, "edema": 1, "core": 2, "enhancing": 3}
"""Label values; the enhancing part lies inside the core, the core inside the edema, each wrapped by at least one voxel of the next."""

_APPEARANCE: dict[str, tuple[float, float, float, float]] = {
    "air": (0.0, 0.0, 0.0, 0.0),
    "fluid": (0.25, 0.25, 0.95, 0.22),
    "grey": (0.55, 0.57, 0.60, 0.60),
    "white": (0.75, 0.77, 0.45, 0.50),
    "edema": (0.55, 0.57, 0.72, 0.79),
    "core": (0.42, 0.46, 0.70, 0.60),
    "enhancing": (0.50, 0.88, 0.60, 0.70),
    "old_lesion": (0.62, 0.64, 0.66, 0.74),
    "vessel": (0.58, 0.92, 0.42, 0.44),
}
"""Mean signal per tissue and channel. The last two look like edema and like an enhancing part, but are neither."""
_TISSUES = tuple(_APPEARANCE)


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """One case before acquisition; arrays in SimpleITK's axis order (z, y, x)."""

    signal: NDArray[np.float32]
    """Noise-free signal (4, Z, Y, X), 0.02 to about 1.2 in the brain, exactly 0 outside."""
    labels: NDArray[np.uint8]
    """Label map (Z, Y, X) with the values of `LABELS`."""


class _Space:
    """A voxel grid with its size in millimetres, and what is drawn on it.

    Args:
        shape: voxels (Z, Y, X).
        spacing_mm: voxel size (z, y, x) in millimetres.
        rng: source of everything random in the case.
    """

    def __init__(self, *, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], rng: np.random.Generator) -> None:
        self.shape = shape
        self.spacing_mm = np.asarray(spacing_mm)
        self.extent_mm = np.asarray(shape) * self.spacing_mm
        self.rng = rng

    def smooth_noise(self, width_mm: float) -> NDArray[np.float64]:
        """Gaussian noise of zero mean and unit variance that changes over about `width_mm` millimetres; shape (Z, Y, X)."""
        noise = ndimage.gaussian_filter(self.rng.standard_normal(self.shape), width_mm / self.spacing_mm, mode="wrap")
        return np.asarray((noise - noise.mean()) / noise.std())

    def distance(self, centre_mm: NDArray[np.float64], stretch: NDArray[np.float64]) -> NDArray[np.float64]:
        """Distance (Z, Y, X) in millimetres from a point given from the volume's middle, each axis divided by its stretch."""
        axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(self.shape, self.spacing_mm, strict=True)]
        offsets = [((axis - c) / q) ** 2 for axis, c, q in zip(axes, centre_mm, stretch, strict=True)]
        return np.asarray(np.sqrt(offsets[0][:, None, None] + offsets[1][None, :, None] + offsets[2][None, None, :]))

    def blob(self, *, centre_mm: NDArray[np.float64], radius_mm: float, roughness_mm: float) -> NDArray[np.float64]:
        """Signed distance-like field (Z, Y, X) of an irregular blob: negative inside."""
        stretch = self.rng.uniform(0.8, 1.25, 3)
        return self.distance(centre_mm, stretch) + roughness_mm * self.smooth_noise(2.5) - radius_mm

    def point_in_brain(self, reach: float) -> NDArray[np.float64]:
        """A point in millimetres from the middle, within `reach` (0 to 1) of the brain's half axes."""
        direction = self.rng.standard_normal(3)
        return np.asarray(direction / np.linalg.norm(direction) * reach * 0.46 * self.extent_mm * self.rng.uniform(0.3, 1.0))


def _healthy_tissue(space: _Space) -> NDArray[np.uint8]:
    """Index into `_TISSUES` (Z, Y, X): fluid around and in the middle, a grey ribbon, white matter."""
    radius = space.distance(np.zeros(3), 0.46 * space.extent_mm) + 0.04 * space.smooth_noise(4.0)
    folds = space.smooth_noise(1.8)
    ventricles = space.distance(np.zeros(3), np.array([0.13, 0.20, 0.12]) * space.extent_mm) + 0.15 * space.smooth_noise(2.5) < 1
    tissue = np.full(space.shape, _TISSUES.index("air"), dtype=np.uint8)
    tissue[radius < 1] = _TISSUES.index("fluid")
    tissue[radius < 0.93 + 0.04 * folds] = _TISSUES.index("grey")
    tissue[radius < 0.76 + 0.07 * folds] = _TISSUES.index("white")
    tissue[ventricles & (radius < 0.76)] = _TISSUES.index("fluid")
    return tissue


def _inner_part(space: _Space, outer: NDArray[np.bool_], *, centre_mm: NDArray[np.float64], share: float) -> NDArray[np.bool_]:
    """The given share of the voxels of `outer` (Z, Y, X) that do not touch its surface, chosen as one irregular blob."""
    eligible = ndimage.binary_erosion(outer)
    field = space.blob(centre_mm=centre_mm, radius_mm=0.0, roughness_mm=1.0)
    chosen = np.zeros_like(outer)
    if eligible.any():
        chosen = eligible & (field <= np.quantile(field[eligible], share))
    return chosen


def _tumour(space: _Space, inside: NDArray[np.bool_], *, enhancing: bool) -> NDArray[np.uint8]:
    """Label map (Z, Y, X) of one tumour within the mask `inside`."""
    centre = space.point_in_brain(0.55)
    whole = inside & (space.blob(centre_mm=centre, radius_mm=space.rng.uniform(8.0, 12.0), roughness_mm=1.4) < 0)
    core = _inner_part(space, whole, centre_mm=centre + space.rng.normal(0, 1.5, 3), share=space.rng.uniform(0.5, 0.8))
    active = _inner_part(space, core, centre_mm=centre + space.rng.normal(0, 1.5, 3), share=space.rng.uniform(0.6, 0.9))
    labels = whole.astype(np.uint8)
    labels[core] = LABELS["core"]
    if enhancing:
        labels[active] = LABELS["enhancing"]
    return labels


def _add_lookalikes(space: _Space, tissue: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    """Put old lesions and vessels into healthy tissue, in place: what a network must learn not to call a tumour."""
    free = (tissue > _TISSUES.index("fluid")) & ~ndimage.binary_dilation(labels > 0, iterations=2)
    for name, most, radius_mm in (("old_lesion", 4, 2.4), ("vessel", 3, 1.6)):
        for _ in range(space.rng.integers(1, most + 1)):
            blob = space.blob(centre_mm=space.point_in_brain(0.8), radius_mm=radius_mm, roughness_mm=0.5)
            tissue[free & (blob < 0)] = _TISSUES.index(name)


def _case_appearance(rng: np.random.Generator) -> NDArray[np.float64]:
    """Signal per tissue and channel (T, 4) of one patient: tumours, and what looks like them, stand out more or less from white matter."""
    table = np.array(list(_APPEARANCE.values()))
    first_lesion = _TISSUES.index("edema")
    white = table[_TISSUES.index("white")]
    table[first_lesion:] = white + rng.uniform(0.8, 1.3) * (table[first_lesion:] - white)
    table[1:] += rng.normal(0, 0.025, table[1:].shape)
    return table


def make_phantom(
    *, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], enhancing: bool, rng: np.random.Generator
) -> Phantom:
    """Draw the anatomy of one case.

    Args:
        shape: voxels (Z, Y, X); the brain fills it, and is meant to be 30 to 45 mm wide.
        spacing_mm: voxel size (z, y, x) in millimetres; the anatomy keeps its size in millimetres.
        enhancing: whether the tumour has an enhancing part.
        rng: source of everything random; the same state gives the same phantom.

    Returns:
        The noise-free signal and the true labels.
    """
    space = _Space(shape=shape, spacing_mm=spacing_mm, rng=rng)
    tissue = _healthy_tissue(space)
    brain = tissue > _TISSUES.index("air")
    labels = _tumour(space, ndimage.binary_erosion(brain, iterations=3), enhancing=enhancing)
    _add_lookalikes(space, tissue, labels)
    for name, value in LABELS.items():
        if value:
            tissue[labels == value] = _TISSUES.index(name)
    signal = np.moveaxis(_case_appearance(rng)[tissue], -1, 0)
    # Texture that the four channels share makes them correlated beyond what the tissue explains.
    signal = signal + 0.025 * space.smooth_noise(1.2) + 0.015 * np.stack([space.smooth_noise(1.5) for _ in CHANNELS])
    return Phantom(signal=np.where(brain, np.maximum(signal, 0.02), 0).astype(np.float32), labels=labels)
