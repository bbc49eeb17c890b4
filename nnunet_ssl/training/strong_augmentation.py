"""Strong intensity augmentation of pool images only."""

from __future__ import annotations

from typing import Any

import numpy as np
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, ImageOnlyTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.random import OneOfTransform, RandomTransform
from torch import Tensor

from nnunet_ssl.training.weak_view import BesideWeakView

CUT_OUT_PROBABILITY = 0.5
"""Share of pool samples that lose boxes."""
CUT_OUT_BOXES = (1, 3)
"""Fewest and most boxes."""
CUT_OUT_SIDE = (0.1, 0.4)
"""Shortest and longest side of a box, as a share of the patch's."""


class PoolOnly(BasicTransform):
    """Applies a transform to pool samples and leaves labelled ones alone (`data_dict["pool"]`)."""

    def __init__(self, transform: BasicTransform) -> None:
        super().__init__()
        self.transform = transform

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        changed: dict[str, Any] = self.transform(**data_dict) if data_dict["pool"] else data_dict
        return changed


class CutOut(ImageOnlyTransform):
    """Sets random boxes of the image to 0, in every channel; the target stays, so the box must be filled in from its surroundings.

    Args:
        num_boxes: fewest and most boxes.
        side: shortest and longest side of a box as a share of the patch's.
    """

    def __init__(self, *, num_boxes: tuple[int, int] = CUT_OUT_BOXES, side: tuple[float, float] = CUT_OUT_SIDE) -> None:
        super().__init__()
        self.num_boxes = num_boxes
        self.side = side

    def get_parameters(self, **data_dict: Any) -> dict[str, Any]:
        """Draw the boxes, as slices of the spatial axes."""
        shape = data_dict["image"].shape[1:]
        # NumPy's global generator, because nnU-Net reseeds that one in its worker processes
        count = np.random.randint(self.num_boxes[0], self.num_boxes[1] + 1)  # noqa: NPY002
        return {"boxes": [tuple(self._draw_range(n) for n in shape) for _ in range(count)]}

    def _draw_range(self, length: int) -> slice:
        side = min(length, max(1, round(length * np.random.uniform(*self.side))))  # noqa: NPY002
        start = np.random.randint(0, length - side + 1)  # noqa: NPY002
        return slice(start, start + side)

    def _apply_to_image(self, img: Tensor, **params: Any) -> Tensor:
        img = img.clone()
        for box in params["boxes"]:
            img[(slice(None), *box)] = 0
        return img


def is_intensity_transform(transform: BasicTransform) -> bool:
    """Whether a transform of nnU-Net's pipeline changes image intensities at random; of several to choose from, whether all do.

    Transforms that degrade a cascade's previous segmentation also change the image alone, but not its intensities.
    """
    inner = transform.transform if isinstance(transform, RandomTransform) else transform
    if isinstance(inner, OneOfTransform):
        return all(map(is_intensity_transform, inner.list_of_transforms))
    return isinstance(inner, ImageOnlyTransform) and ".nnunet." not in type(inner).__module__


def with_strong_augmentation(transforms: list[BasicTransform], *, keeps_weak_view: bool = False) -> list[BasicTransform]:
    """Insert the strong augmentation of pool samples into nnU-Net's training transforms.

    The whole intensity block runs a second time with its own probabilities, so that each of its transforms is applied twice as often on
    average; cut-out follows. Both come right after the block, before nnU-Net masks images outside the nonzero region; what a user's trainer
    does to intensities after that stays as it is.

    Args:
        transforms: nnU-Net's transforms in order, without pipelines inside the pipeline; not changed.
        keeps_weak_view: leave every image as it was before the strong augmentation as further channels behind it.
    """
    masked = next((i for i, t in enumerate(transforms) if isinstance(t, MaskImageTransform)), len(transforms))
    places = [i for i, t in enumerate(transforms[:masked]) if is_intensity_transform(t)]
    block = [transforms[i] for i in places]
    strong: BasicTransform = PoolOnly(ComposeTransforms([*block, RandomTransform(CutOut(), apply_probability=CUT_OUT_PROBABILITY)]))
    if keeps_weak_view:
        strong = BesideWeakView(strong, masks=[t for t in transforms if isinstance(t, MaskImageTransform)])
    last = max(places, default=_last_before_target_changes(transforms))
    return [*transforms[: last + 1], strong, *transforms[last + 1 :]]


def _last_before_target_changes(transforms: list[BasicTransform]) -> int:
    """Index of the last transform that still changes image and segmentation together (a pipeline without intensity transforms)."""
    names = [type(t).__name__ for t in transforms]
    return max((i for i, name in enumerate(names) if name in ("SpatialTransform", "Convert2DTo3DTransform")), default=-1)
