from __future__ import annotations

from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import ImageOnlyTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import OneOfTransform, RandomTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5

from nnunet_ssl.training.strong_augmentation import CutOut, PoolOnly, is_intensity_transform, with_strong_augmentation
from nnunet_ssl.training.student_pipeline import student_pipeline


class AddOne(ImageOnlyTransform):
    def _apply_to_image(self, img: torch.Tensor, **params: Any) -> torch.Tensor:
        return img + 1


def stock(**options: Any) -> list[Any]:
    return nnUNetTrainer.get_training_transforms(np.array([8, 8, 8]), 0.1, [[1.0] * 3], (0, 1, 2), False, **options).transforms


def test_intensity_block_runs_once_more_right_behind_itself() -> None:
    plain = stock()
    strong = with_strong_augmentation(plain)
    (index,) = [i for i, t in enumerate(strong) if isinstance(t, PoolOnly)]
    assert [t for t in strong if not isinstance(t, PoolOnly)] == plain
    block = [t for t in plain if is_intensity_transform(t)]
    assert len(block) == 7
    assert strong[index].transform.transforms[:-1] == block
    assert strong[index - 1] is block[-1]
    assert isinstance(strong[index + 1], MirrorTransform)


def test_degrading_a_previous_segmentation_is_no_intensity_transform() -> None:
    cascade = stock(is_cascaded=True, foreground_labels=[1, 2])
    assert sum(map(is_intensity_transform, cascade)) == 7
    assert sum(isinstance(t, RandomTransform) for t in cascade) == 9


def test_the_whole_intensity_block_of_another_trainer_is_repeated() -> None:
    """nnUNetTrainerDA5 draws one of several transforms at two places."""
    plain = nnUNetTrainerDA5.get_training_transforms(np.array([8, 8, 8]), 0.1, [[1.0] * 3], (0, 1, 2), False).transforms
    block = [t for t in plain if is_intensity_transform(t)]
    drawn = [t for t in block if isinstance(getattr(t, "transform", t), OneOfTransform)]
    assert len(drawn) == sum(isinstance(getattr(t, "transform", t), OneOfTransform) for t in plain) == 2
    (repeated,) = [t for t in with_strong_augmentation(plain) if isinstance(t, PoolOnly)]
    assert repeated.transform.transforms[:-1] == block


def test_a_draw_that_may_move_the_image_is_no_intensity_transform() -> None:
    assert is_intensity_transform(OneOfTransform([AddOne(), RandomTransform(AddOne())]))
    assert not is_intensity_transform(OneOfTransform([AddOne(), MirrorTransform((0,))]))


def test_only_pool_images_change() -> None:
    twice = student_pipeline(ComposeTransforms([RandomTransform(AddOne(), apply_probability=1)]), num_channels=2, strong=True)
    for code, expected in ((1, 1.0), (2, 2.0)):
        stack = torch.tensor([1, code, 10_000], dtype=torch.int16).reshape(3, 1, 1, 1).repeat(1, 8, 8, 8)
        result = twice(image=torch.zeros(1, 8, 8, 8), segmentation=stack)
        values = set(result["image"].unique().tolist())
        assert values - {0.0} == {expected}
        assert code == 2 or values == {expected}
        assert (result["segmentation"][0] == 1).all()


def test_cut_out_boxes_are_within_their_limits() -> None:
    np.random.seed(0)  # noqa: NPY002
    transform = CutOut(num_boxes=(1, 1), side=(0.25, 0.5))
    for _ in range(20):
        image = torch.ones(2, 8, 12)
        cut = transform(image=image)["image"] == 0
        assert (cut[0] == cut[1]).all()
        rows, columns = cut[0].any(1).sum(), cut[0].any(0).sum()
        assert cut[0].sum() == rows * columns
        assert 2 <= rows <= 4
        assert 3 <= columns <= 6
        assert (image == 1).all()
