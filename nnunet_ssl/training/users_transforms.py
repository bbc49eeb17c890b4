"""What a transform of a user's own must say: whether the pool's targets move with the image."""

from __future__ import annotations

from collections.abc import Iterable

from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, ImageOnlyTransform, SegOnlyTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

from nnunet_ssl.errors import ConfigError

_INNER = ("transform", "transforms", "list_of_transforms")
"""Where the transforms that hold others have them."""
_KNOWN_PACKAGES = ("batchgeneratorsv2", "nnunet_ssl")


def unrolled(transform: BasicTransform) -> list[BasicTransform]:
    """A pipeline's transforms in order, those of pipelines inside it in place."""
    if type(transform) is not ComposeTransforms:
        return [transform]
    return [inner for part in transform.transforms for inner in unrolled(part)]


def refuse_unmoved_targets(transforms: Iterable[BasicTransform]) -> None:
    """See that no transform can move image and segmentation and leave the pool's confidence and probabilities where they were.

    They travel as `regression_target`, which nnU-Net's own trainers never have.

    Args:
        transforms: of a pipeline; transforms inside others are looked at as well.

    Raises:
        ConfigError: for the first one that is neither of batchgeneratorsv2, nor for image or segmentation alone, nor says what becomes of
            a regression target.
    """
    for transform in transforms:
        kind = type(transform)
        is_known = kind.__module__.partition(".")[0] in _KNOWN_PACKAGES or isinstance(transform, ImageOnlyTransform | SegOnlyTransform)
        says_so = getattr(kind, "_apply_to_regr_target", None) not in (None, BasicTransform._apply_to_regr_target)
        if not is_known and not says_so:
            raise ConfigError(
                f"the transform {kind.__name__} does not say what becomes of 'regression_target', which carries the pool's confidence and "
                "probabilities and has to move with the image: derive it from ImageOnlyTransform or SegOnlyTransform if it moves no voxel, "
                "else define _apply_to_regr_target beside _apply_to_segmentation."
            )
        refuse_unmoved_targets(_inside(transform))


def _inside(transform: BasicTransform) -> list[BasicTransform]:
    held = [getattr(transform, name, ()) for name in _INNER]
    parts = [part for found in held for part in (found if isinstance(found, list | tuple) else [found])]
    return [part for part in parts if isinstance(part, BasicTransform)]
