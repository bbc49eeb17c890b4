"""Slices as PNG images for a page: grey values, labels over them, maps in colour."""

from __future__ import annotations

import base64
import colorsys
import io
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import to_hex, to_rgb
from matplotlib.image import imsave
from numpy.typing import NDArray

from nnunet_ssl.report.case_panels import FloatImage

Rgb = NDArray[np.float64]
"""(Y, X, 3) in [0, 1]."""

CONFIDENCE_MAP, DEVIATION_MAP = "viridis", "magma"
DEVIATION_MAX = 0.5
"""Largest standard deviation that a probability can have."""
LABEL_COLOURS = ("#ff5a52", "#ffd23f", "#3ea6ff", "#5ee08a", "#d58bff", "#ff9a3d", "#7fe3e0", "#ff8fc0")
"""Of the first labels; bright, since they lie over dark images."""
_SATURATION = 0.7
"""Of the labels after these."""
_IGNORED = (0.55, 0.55, 0.55)
_OVERLAY = 0.45


def grey_image(image: FloatImage) -> Rgb:
    """Intensities between the 1st and the 99.5th percentile of the slice, black to white."""
    low, high = np.percentile(image, (1, 99.5))
    scaled = np.clip((image - low) / max(float(high - low), 1e-6), 0, 1)
    return np.repeat(scaled[..., None].astype(np.float64), 3, axis=-1)


def overlay(grey: Rgb, labels: NDArray[np.int16]) -> Rgb:
    """Labels in colour over the image, their outlines opaque."""
    shown = grey.copy()
    for value in np.unique(labels[labels > 0]):
        mask = labels == value
        colour = np.array(to_rgb(label_colour(int(value))))
        shown[mask] = (1 - _OVERLAY) * shown[mask] + _OVERLAY * colour
        shown[mask & _has_other_neighbour(mask)] = colour
    return shown


def label_colour(value: int) -> str:
    """Colour of a label value from 1; each has a hue of its own, however many there are."""
    if value <= len(LABEL_COLOURS):
        return LABEL_COLOURS[value - 1]
    hues = [colorsys.rgb_to_hsv(*to_rgb(colour))[0] for colour in LABEL_COLOURS]
    while len(hues) < value:
        hues.append(_middle_of_largest_gap(hues))
    return to_hex(colorsys.hsv_to_rgb(hues[-1], _SATURATION, 1))


def _middle_of_largest_gap(hues: list[float]) -> float:
    """The hue that is farthest from all others; hues are places on a circle, in [0, 1)."""
    around = sorted(hues)
    gap, start = max((after - before, before) for before, after in pairwise([*around, around[0] + 1]))
    return (start + gap / 2) % 1


def colour_map(values: FloatImage, name: str, highest: float, *, ignored: NDArray[np.bool_] | None = None) -> Rgb:
    """Values between 0 and `highest` in the colours of one of matplotlib's maps; ignored voxels grey."""
    shown = np.array(matplotlib.colormaps[name](np.clip(values / highest, 0, 1))[..., :3], dtype=np.float64)
    if ignored is not None:
        shown[ignored] = _IGNORED
    return shown


def gradient(name: str) -> str:
    """A colour map as a CSS gradient, from left to right."""
    colours = [matplotlib.colors.to_hex(matplotlib.colormaps[name](share)) for share in np.linspace(0, 1, 7)]
    return f"linear-gradient(to right, {', '.join(colours)})"


def data_uri(image: Rgb) -> str:
    """The image as a PNG inside a `data:` address."""
    buffer = io.BytesIO()
    metadata: dict[str, Any] = {"Software": None}  # matplotlib's version is no part of the image
    imsave(buffer, image, format="png", metadata=metadata)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _has_other_neighbour(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return ~inner
