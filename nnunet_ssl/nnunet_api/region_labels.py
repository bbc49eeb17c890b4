"""What a label map says of each region. nnU-Net lays the regions over each other in their order, and so decides where they contradict."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.confidence.evidence import BoolArray, FloatArray
from nnunet_ssl.nnunet_api.setup import NnunetSetup


def regions_of(labels: NDArray[Any], setup: NnunetSetup) -> NDArray[np.bool_]:
    """Which regions a voxel with a label is in.

    Args:
        labels: (*spatial) label values.
        setup: of a dataset with regions.

    Returns:
        (R, *spatial), regions in the order of the network's outputs.
    """
    values = [setup.dataset_json["labels"][name] for name in setup.class_names]
    return np.stack([np.isin(labels, value) for value in values])


def written_regions(probabilities: FloatArray, setup: NnunetSetup) -> BoolArray | None:
    """Regions of the label map that nnU-Net makes of probabilities, which may contradict single ones; None for classes, which never do.

    Args:
        probabilities: (H, *spatial) in [0, 1].
        setup: of the dataset.
    """
    if not setup.has_regions:
        return None
    return regions_of(np.asarray(setup.label_manager.convert_probabilities_to_segmentation(probabilities)), setup)
