"""Manual labels of the labelled dataset on the network's grid, as the network's heads."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.nnunet_api.preprocessed_case import open_segmentation
from nnunet_ssl.nnunet_api.region_labels import regions_of
from nnunet_ssl.nnunet_api.setup import NnunetSetup


class ManualLabel(NamedTuple):
    """The manual label of one case."""

    truth: NDArray[Any]
    """(X, Y, Z) class per voxel, or (R, X, Y, Z) bool for regions."""
    valid: NDArray[np.bool_]
    """(X, Y, Z): inside the nonzero mask and not ignored."""
    nonzero: NDArray[np.bool_]
    """(X, Y, Z): inside nnU-Net's nonzero mask."""


def manual_label(setup: NnunetSetup, case: str) -> ManualLabel:
    """Read a labelled case's preprocessed segmentation; never one of the pool, which has none."""
    labels = np.asarray(open_segmentation(setup.data_folder, case)[0]).astype(np.int16)
    nonzero = labels >= 0
    manager = setup.label_manager
    valid = nonzero & (labels != manager.ignore_label) if manager.has_ignore_label else nonzero
    if setup.has_regions:
        return ManualLabel(regions_of(labels, setup), valid, nonzero)
    return ManualLabel(labels, valid, nonzero)
