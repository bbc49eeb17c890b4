"""nnU-Net's training transforms with ours around and between them."""

from __future__ import annotations

from collections.abc import Sequence

from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

from nnunet_ssl.training.extra_channels import PackExtraChannels, SplitExtraChannels
from nnunet_ssl.training.strong_augmentation import with_strong_augmentation
from nnunet_ssl.training.users_transforms import refuse_unmoved_targets, unrolled


def student_pipeline(
    stock: BasicTransform,
    *,
    num_channels: int,
    strong: bool,
    keeps_weak_view: bool = False,
    thresholds: Sequence[float] | None = None,
) -> ComposeTransforms:
    """The student's training transforms.

    Args:
        stock: what `get_training_transforms` of the trainer returns; not changed.
        num_channels: extra channels behind the segmentation.
        strong: augment pool images more strongly than labelled ones.
        keeps_weak_view: with strong augmentation, leave the images as they were before it behind those after it.
        thresholds: tau per class; None where all voxels have the same, or regions have one each.

    Raises:
        ConfigError: if a transform of the user's own might leave the pool's targets behind.
    """
    middle = unrolled(stock)
    refuse_unmoved_targets(middle)
    if strong:
        middle = with_strong_augmentation(middle, keeps_weak_view=keeps_weak_view)
    split = SplitExtraChannels(num_channels=num_channels, thresholds=thresholds)
    return ComposeTransforms([split, *middle, PackExtraChannels(thresholds=thresholds)])
