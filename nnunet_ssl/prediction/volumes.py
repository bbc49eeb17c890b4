"""Volumes of what is segmented."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.nnunet_api.setup import NnunetSetup


def volumes_ml(labels: NDArray[Any], voxel_ml: float | None, setup: NnunetSetup) -> dict[str, float | None]:
    """Volume of every foreground class (region) by name, in millilitres; regions overlap as they are defined.

    Args:
        labels: (X', Y', Z') label values on the image's own grid.
        voxel_ml: volume of a voxel; None for a flat image, whose classes then have none.
        setup: names the classes.
    """
    manager = setup.label_manager
    values = manager.foreground_regions if setup.has_regions else manager.foreground_labels
    counts = [int(np.isin(labels, value).sum()) for value in values]
    return {name: None if voxel_ml is None else count * voxel_ml for name, count in zip(setup.foreground_names, counts, strict=True)}
