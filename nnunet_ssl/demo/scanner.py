"""Simulated scanners: the same anatomy comes out with another scale, contrast, bias field, sharpness, noise and orientation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


@dataclass(frozen=True, kw_only=True)
class Scanner:
    """One scanner; four values where the channels differ."""

    name: str
    """Name, as recorded in `scanners.csv`."""
    scale: tuple[float, float, float, float]
    """Stored intensity of signal 1 per channel."""
    contrast: tuple[float, float, float, float]
    """Exponent of the signal per channel; 1 keeps the contrast between tissues."""
    bias: float
    """Standard deviation of the logarithm of the smooth bias field."""
    blur_mm: float
    """Standard deviation in millimetres of the point-spread function."""
    noise: float
    """Standard deviation of the noise as a share of `scale`."""
    flipped: bool
    """Whether images are stored with the first two world axes reversed (RAS instead of LPS)."""


SEEN_SCANNERS = (
    Scanner(
        name="north",
        scale=(600, 640, 700, 520),
        contrast=(1.0, 1.0, 1.0, 1.0),
        bias=0.06,
        blur_mm=0.6,
        noise=0.03,
        flipped=False,
    ),
    Scanner(
        name="east",
        scale=(260, 300, 410, 240),
        contrast=(1.25, 1.2, 0.85, 1.15),
        bias=0.10,
        blur_mm=0.75,
        noise=0.04,
        flipped=False,
    ),
)
"""Scanners of the labelled cases."""
UNSEEN_SCANNER = Scanner(
    name="south",
    scale=(1500, 1350, 1800, 1600),
    contrast=(0.75, 0.7, 1.35, 0.8),
    bias=0.14,
    blur_mm=0.85,
    noise=0.05,
    flipped=True,
)
"""A scanner that only the pool and the test set have."""
ALL_SCANNERS = (*SEEN_SCANNERS, UNSEEN_SCANNER)


def acquire(
    scanner: Scanner, signal: NDArray[np.float32], *, spacing_mm: tuple[float, float, float], rng: np.random.Generator
) -> NDArray[np.int16]:
    """Turn a noise-free signal into the images a scanner stores.

    Args:
        scanner: the scanner.
        signal: signal (4, Z, Y, X), positive in the brain, exactly 0 outside.
        spacing_mm: voxel size (z, y, x) in millimetres.
        rng: source of the bias field and the noise.

    Returns:
        Images (4, Z, Y, X), at least 1 inside the brain and 0 outside, like skull-stripped images.
    """
    inside = signal[0] > 0
    widths = scanner.blur_mm / np.asarray(spacing_mm)
    bias = _bias_field(signal.shape[1:], spacing_mm, rng) * scanner.bias
    images = np.zeros(signal.shape, dtype=np.int16)
    for channel, (scale, contrast) in enumerate(zip(scanner.scale, scanner.contrast, strict=True)):
        blurred = ndimage.gaussian_filter(signal[channel].astype(np.float64), widths)
        bright = blurred**contrast * np.exp(bias) + scanner.noise * rng.standard_normal(blurred.shape)
        images[channel] = np.where(inside, np.clip(np.rint(scale * bright), 1, np.iinfo(np.int16).max), 0)
    return images


def _bias_field(shape: tuple[int, ...], spacing_mm: tuple[float, float, float], rng: np.random.Generator) -> NDArray[np.float64]:
    """A field (Z, Y, X) of zero mean and unit variance that changes over about a third of the head."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape), 12.0 / np.asarray(spacing_mm), mode="reflect")
    return np.asarray((field - field.mean()) / field.std())
