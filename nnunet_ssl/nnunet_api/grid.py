"""Whether two arrays that nnU-Net's readers gave lie on the same grid in space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TOLERANCE = 1e-3
"""In millimetres, and in the components of unit vectors."""


def same_grid(properties: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Compare spacing, direction and origin as the readers stored them, whichever readers they were; shapes are not looked at.

    Args:
        properties: what a reader of nnU-Net returns beside the array.
        other: the same of the other array.
    """
    a, b = _numbers(properties), _numbers(other)
    return a.shape == b.shape and bool(np.allclose(a, b, atol=_TOLERANCE))


def _numbers(properties: Mapping[str, Any]) -> NDArray[np.float64]:
    """Spacing of the array's axes; behind it direction and origin in RAS, of the file's axes, where the reader knows them."""
    spacing = np.ravel(np.asarray(properties["spacing"], dtype=float))
    if "sitk_stuff" in properties:
        stuff = properties["sitk_stuff"]
        origin = np.asarray(stuff["origin"], dtype=float)
        to_ras = np.where(np.arange(len(origin)) < 2, -1.0, 1.0)  # SimpleITK's axes are LPS
        direction = np.reshape(np.asarray(stuff["direction"], dtype=float), (len(origin), len(origin))) * to_ras[:, None]
        return np.concatenate([spacing, direction.ravel(), origin * to_ras])
    if "nibabel_stuff" in properties:
        stuff = properties["nibabel_stuff"]
        affine = np.asarray(stuff.get("reoriented_affine", stuff["original_affine"]), dtype=float)
        direction = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        return np.concatenate([spacing, direction.ravel(), affine[:3, 3]])
    return spacing
