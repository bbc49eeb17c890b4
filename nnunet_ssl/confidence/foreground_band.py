"""The foreground band: predicted foreground and its surroundings, where segmentation errors are made."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from nnunet_ssl.confidence.evidence import BoolArray

DEFAULT_RADIUS = 3


def foreground_band(foreground: BoolArray, *, radius: int = DEFAULT_RADIUS) -> BoolArray:
    """Foreground dilated by a radius in voxels along every axis (a cube, not a ball: same result as max-pooling on patches).

    Args:
        foreground: (*spatial) bool.
        radius: in voxels, 0 or more; 0 returns the foreground.

    Returns:
        (*spatial) bool; empty where the foreground is.
    """
    dilated = ndimage.maximum_filter(foreground.astype(np.uint8), size=2 * radius + 1, mode="constant", cval=0)
    return np.asarray(dilated, dtype=np.bool_)
