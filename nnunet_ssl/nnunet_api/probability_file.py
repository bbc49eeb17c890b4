"""Class probabilities as nnU-Net saves them (`--save_probabilities`), read and checked without running code that a file might carry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.errors import InputError
from nnunet_ssl.nnunet_api.geometry import image_shape
from nnunet_ssl.nnunet_api.grid import same_grid
from nnunet_ssl.nnunet_api.plain_pickle import read_plain_pickle
from nnunet_ssl.nnunet_api.setup import NnunetSetup

KEY = "probabilities"
_OUTSIDE = 1e-3
"""How far a probability may leave [0, 1]."""
_SUM = 1e-2
"""How far probabilities may miss a sum of 1: half precision leaves such gaps."""


def read_probabilities(case: str, path: Path, setup: NnunetSetup, properties: dict[str, Any]) -> NDArray[np.float32]:
    """Read `<case>.npz`; where nnU-Net's `<case>.pkl` lies beside it, the geometry is compared, too.

    Args:
        case: case id.
        path: the `.npz` file.
        setup: gives the classes (regions) and the reader's orientation.
        properties: of the case's image, as nnU-Net's preprocessor stored them.

    Returns:
        (H, X', Y', Z') float32 in [0, 1] on the image's own grid, axes as the plans' reader gives them: nnU-Net has undone cropping,
        resampling and the plans' transposition before it saves.

    Raises:
        InputError: if the file is unreadable, of another shape, grid or number of classes, or its values are no probabilities.
    """
    found = _load(case, path)
    kind, expected = "regions" if setup.has_regions else "classes with background", image_shape(setup, properties)
    if found.ndim != 1 + len(expected) or len(found) != setup.heads:
        raise InputError(
            f"case '{case}': {path} has shape {found.shape}; expected ({setup.heads}, {', '.join(map(str, expected))}), one map for each "
            f"of the {setup.heads} {kind} of {setup.dataset}."
        )
    if found.shape[1:] != expected:
        raise InputError(f"case '{case}': {path} has maps of shape {found.shape[1:]}, the image {expected}; predict the pool's images.")
    if not _lies_on_the_image(case, path.with_suffix(".pkl"), properties):
        raise InputError(f"case '{case}': {path} lies on another grid than the image ({path.stem}.pkl); predict the pool's images.")
    _check_values(case, path, found, has_regions=setup.has_regions)
    return np.clip(found.astype(np.float32, copy=False), np.float32(0), np.float32(1))


def _load(case: str, path: Path) -> NDArray[Any]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            found = archive.get(KEY)
    except Exception as error:  # a damaged archive raises anything
        raise InputError(f"case '{case}': {path} cannot be read ({error}); predict the case again with --save_probabilities.") from error
    if found is None or not np.issubdtype(found.dtype, np.floating):
        raise InputError(f"case '{case}': {path} holds no array '{KEY}' of floating-point numbers, as nnUNetv2_predict saves it.")
    return np.asarray(found)


def _check_values(case: str, path: Path, found: NDArray[Any], *, has_regions: bool) -> None:
    if not np.isfinite(found).all():
        raise InputError(f"case '{case}': {path} has {int((~np.isfinite(found)).sum())} NaN or infinite values; predict the case again.")
    low, high = float(found.min()), float(found.max())
    if low < -_OUTSIDE or high > 1 + _OUTSIDE:
        raise InputError(f"case '{case}': {path} has values from {low:.4g} to {high:.4g}; save probabilities in [0, 1], not logits.")
    if not has_regions:
        sums = found.sum(axis=0, dtype=np.float32)
        worst = float(sums.ravel()[np.abs(sums - 1).argmax()])
        if abs(worst - 1) > _SUM:
            raise InputError(f"case '{case}': the classes of {path} sum to {worst:.4g} in a voxel; save probabilities that sum to 1.")


def _lies_on_the_image(case: str, path: Path, properties: dict[str, Any]) -> bool:
    if not path.is_file():
        return True
    try:
        return same_grid(read_plain_pickle(path), properties)
    except Exception as error:  # a damaged pickle raises anything
        raise InputError(
            f"case '{case}': {path} is not what nnUNetv2_predict leaves ({error}) and was not opened; predict the case again, or remove "
            "that file: then the shape alone is compared."
        ) from error
