"""The image before the strong augmentation, beside the image after it: what the moving average looks at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from torch import Tensor


class BesideWeakView(BasicTransform):
    """Applies a transform to the image and keeps the image as it was before; its channels come behind the changed ones.

    Every sample of a batch gets its second half, whether the transform changed it or not. Later transforms that move voxels (mirroring)
    move both halves alike.

    Args:
        transform: what makes the strong view.
        masks: later transforms of the pipeline that set single channels to zero outside the nonzero mask; they count channels from the
            first one, so that the weak view has to be masked here.
    """

    def __init__(self, transform: BasicTransform, *, masks: Sequence[BasicTransform]) -> None:
        super().__init__()
        self.transform = transform
        self.masks = list(masks)

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        # transforms may change the image in place
        weak = {**data_dict, "image": data_dict["image"].clone()}
        changed: dict[str, Any] = self.transform(**data_dict)
        for mask in self.masks:
            weak = mask(**weak)
        changed["image"] = torch.cat([changed["image"], weak["image"]])
        return changed


def split_views(data: Tensor) -> tuple[Tensor, Tensor]:
    """Strong and weak view (B, C, *spatial) of the images (B, 2C, *spatial) of a batch."""
    strong, weak = data.chunk(2, dim=1)
    strong = strong.contiguous()
    return strong.pin_memory() if data.is_pinned() else strong, weak
