"""Mean logits as nnU-Net's own sliding window leaves them, so that labels made of them are nnU-Net's to the voxel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from numpy.typing import NDArray
from torch import Tensor

from nnunet_ssl.errors import StateError
from nnunet_ssl.nnunet_api.setup import NnunetSetup


class StockLogits:
    """Weighted sums over windows in nnU-Net's precision and order.

    Half precision decides which of two nearly equal classes wins, and an argmax of mean probabilities is another one than that of mean
    logits; labels that are to equal `nnUNetv2_predict`'s have to go its way.
    """

    def __init__(self, *, heads: int, image_size: Sequence[int], patch_size: Sequence[int], device: torch.device) -> None:
        """Start with nothing.

        Args:
            heads: H.
            image_size: of the padded image, in voxels.
            patch_size: of a window; one axis fewer where windows are slices.
            device: where the sums are kept.
        """
        self._sums = torch.zeros((heads, *image_size), dtype=torch.half, device=device)
        self._weights = torch.zeros(tuple(image_size), dtype=torch.half, device=device)
        self._gaussian = compute_gaussian(tuple(patch_size), sigma_scale=1.0 / 8, value_scaling_factor=10, device=device)

    def add(self, logits: Tensor, window: tuple[int | slice, ...]) -> None:
        """Add the mean logits of one window over its mirrored views.

        Args:
            logits: (H, *patch).
            window: where it lies, all channels first.
        """
        self._sums[window] += logits.to(self._sums.device) * self._gaussian
        self._weights[window[1:]] += self._gaussian

    def mean(self) -> Tensor:
        """(H, *image) half.

        Raises:
            StateError: if a logit does not fit into half precision, where nnU-Net stops, too, or is NaN.
        """
        mean = self._sums / self._weights
        if not torch.isfinite(mean).all():
            raise StateError(
                "the network's logits are NaN or exceed half precision, in which nnU-Net sums them; train with a smaller learning rate."
            )
        return mean


def stock_labels(logits: Tensor, setup: NnunetSetup, properties: dict[str, Any]) -> NDArray[Any]:
    """Labels on the image's own grid, by nnU-Net's own export.

    Args:
        logits: (H, X, Y, Z) on the preprocessed grid.
        setup: the model's.
        properties: of the case, as nnU-Net's preprocessor leaves them.

    Returns:
        (X', Y', Z') label values, axes as the plans' reader gives them.
    """
    labels = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits,
        setup.plans_manager,
        setup.configuration_manager,
        setup.label_manager,
        properties,
        num_threads_torch=torch.get_num_threads(),
    )
    return np.asarray(labels)
