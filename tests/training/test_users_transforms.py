"""Transforms of a user's own in the training pipeline: the pool's targets move with the image, or the transform is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, ImageOnlyTransform, SegOnlyTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.random import OneOfTransform, RandomTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ssl.errors import ConfigError, StateError
from nnunet_ssl.training.strong_augmentation import PoolOnly, is_intensity_transform
from nnunet_ssl.training.student_pipeline import student_pipeline
from nnunet_ssl.training.users_transforms import refuse_unmoved_targets, unrolled
from nnunet_ssl.training.weak_view import BesideWeakView


class Brighter(ImageOnlyTransform):
    def _apply_to_image(self, img: torch.Tensor, **params: Any) -> torch.Tensor:
        return img + 1


class OneClass(SegOnlyTransform):
    def _apply_to_segmentation(self, segmentation: torch.Tensor, **params: Any) -> torch.Tensor:
        return segmentation.clamp(max=1)


class Shift(BasicTransform):
    """Moves what nnU-Net's own trainers have, and nothing else."""

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        return {**data_dict, **{name: data_dict[name].roll(4, -1) for name in ("image", "segmentation")}}


class Crop(BasicTransform):
    def _apply_to_image(self, img: torch.Tensor, **params: Any) -> torch.Tensor:
        return img[..., :6]

    _apply_to_segmentation = _apply_to_image


class CropAll(Crop):
    def _apply_to_regr_target(self, regression_target: torch.Tensor, **params: Any) -> torch.Tensor:
        return self._apply_to_image(regression_target)


class CropOtherwise(Crop):
    def _apply_to_regr_target(self, regression_target: torch.Tensor, **params: Any) -> torch.Tensor:
        return regression_target


class MirrorMore(MirrorTransform):
    """Of nnU-Net's, with what becomes of the targets."""


def sample() -> dict[str, torch.Tensor]:
    """Of the pool: left half background, right half class 1, with a confidence that says the same."""
    label = torch.zeros(1, 8, 8, 8, dtype=torch.int16)
    label[..., 4:] = 1
    stack = torch.cat([label, torch.full_like(label, 2), label * 10_000])
    return {"image": torch.zeros(1, 8, 8, 8), "segmentation": stack}


@pytest.mark.parametrize("kind", [Shift, Crop])
@pytest.mark.parametrize("around", [lambda t: t, lambda t: RandomTransform(t), lambda t: OneOfTransform([Brighter(), t]), PoolOnly])
def test_what_forgets_the_targets_is_refused(kind: Any, around: Any) -> None:
    with pytest.raises(ConfigError, match=rf"the transform {kind.__name__} does not say what becomes of 'regression_target'"):
        student_pipeline(ComposeTransforms([Brighter(), ComposeTransforms([around(kind())])]), num_channels=2, strong=True)


@pytest.mark.parametrize("transform", [Brighter(), OneClass(), CropAll(), MirrorMore((0,))])
def test_what_moves_all_or_nothing_is_taken(transform: BasicTransform) -> None:
    refuse_unmoved_targets([transform])


def test_nnunets_own_pipelines_are_taken() -> None:
    for options in ({}, {"is_cascaded": True, "foreground_labels": [1, 2]}, {"regions": [(1, 2), (2,)], "ignore_label": 3}):
        refuse_unmoved_targets(unrolled(nnUNetTrainer.get_training_transforms(np.array([8] * 3), 0.1, [[1.0] * 3], (0,), True, **options)))


def test_a_crop_of_all_is_one() -> None:
    result = student_pipeline(CropAll(), num_channels=2, strong=False)(**sample())
    segmentation, extras = result["segmentation"]
    assert segmentation.shape == (1, 8, 8, 6)
    assert torch.equal(extras[1], segmentation[0] * 10_000)


def test_targets_of_another_shape_are_an_error() -> None:
    with pytest.raises(StateError, match=r"made the segmentation \(8, 8, 6\) and 'regression_target', .*, \(8, 8, 8\)"):
        student_pipeline(CropOtherwise(), num_channels=2, strong=False)(**sample())


# ---- pipelines inside pipelines


def stock(**options: Any) -> Any:
    return nnUNetTrainer.get_training_transforms(np.array([8, 8, 8]), 0.1, [[1.0] * 3], (0, 1, 2), False, **options)


@pytest.mark.parametrize("keeps_weak_view", [False, True])
def test_nested_pipeline_is_augmented_as_a_flat_one(keeps_weak_view: bool) -> None:
    plain = stock(use_mask_for_norm=[True])
    nested = ComposeTransforms([ComposeTransforms([plain]), CropAll()])
    flat, unnested = (
        student_pipeline(p, num_channels=2, strong=True, keeps_weak_view=keeps_weak_view).transforms
        for p in (ComposeTransforms([*plain.transforms, CropAll()]), nested)
    )
    assert [type(t) for t in unnested] == [type(t) for t in flat]
    kind = BesideWeakView if keeps_weak_view else PoolOnly
    (place,) = [i for i, t in enumerate(unnested) if isinstance(t, kind)]
    assert sum(map(is_intensity_transform, unnested[:place])) == 7
    assert isinstance(unnested[place + 1], MirrorTransform)


def test_intensities_that_change_behind_the_mask_change_there_alone() -> None:
    plain = stock(use_mask_for_norm=[True])
    own = Brighter()
    transforms = student_pipeline(ComposeTransforms([plain, own]), num_channels=2, strong=True).transforms
    (place,) = [i for i, t in enumerate(transforms) if isinstance(t, PoolOnly)]
    (mask,) = [i for i, t in enumerate(transforms) if isinstance(t, MaskImageTransform)]
    assert place < mask < transforms.index(own)
    assert own not in transforms[place].transform.transforms
