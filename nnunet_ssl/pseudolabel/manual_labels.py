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
    """(X, Y, Z) class per voxel, or (R, X, Y, Z) bool for regions; background outside the nonzero mask."""
    valid: NDArray[np.bool_]
    """(X, Y, Z): not ignored."""
    nonzero: NDArray[np.bool_]
    """(X, Y, Z): inside nnU-Net's nonzero mask, or foreground, from which the preprocessed files cannot tell it."""

    def judged(self, predicted_foreground: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Where a prediction is compared with the label, (X, Y, Z).

        Background that is predicted outside the mask is left out, as it is background for certain in a pool case; foreground that is
        predicted there is not.

        Args:
            predicted_foreground: (X, Y, Z).
        """
        return self.valid & (self.nonzero | predicted_foreground)


def manual_label(setup: NnunetSetup, case: str) -> ManualLabel:
    """Read a labelled case's preprocessed segmentation; never one of the pool, which has none."""
    labels = np.asarray(open_segmentation(setup.data_folder, case)[0]).astype(np.int16)
    nonzero = labels >= 0
    manager = setup.label_manager
    labels = np.maximum(labels, 0)
    valid = labels != manager.ignore_label if manager.has_ignore_label else np.ones(labels.shape, dtype=bool)
    return ManualLabel(regions_of(labels, setup) if setup.has_regions else labels, valid, nonzero)
