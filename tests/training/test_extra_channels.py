"""Extra channels through nnU-Net's own augmentation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ssl.data import pseudo_case
from nnunet_ssl.errors import StateError
from nnunet_ssl.training import extra_channels
from nnunet_ssl.training.extra_channels import ExtraLayout
from nnunet_ssl.training.strong_augmentation import is_intensity_transform
from nnunet_ssl.training.student_pipeline import student_pipeline

SCALE = 10_000
REGIONS = [(1, 2), (2,)]


def layout(*, regions: bool = False, ignore_label: int | None = None, probabilities: int | None = None) -> ExtraLayout:
    heads = ((1, 2), (2,)) if regions else ((0,), (1,), (2,))
    return ExtraLayout(
        num_confidence=2 if regions else 1,
        num_probabilities=len(heads) if probabilities is None else probabilities,
        heads=heads,
        ignore_label=ignore_label,
    )


def test_codes_are_those_that_stages_are_written_with() -> None:
    assert (extra_channels.CODE_POOL, extra_channels.CODE_IGNORED) == (pseudo_case.CODE_POOL, pseudo_case.CODE_IGNORED) == (2, 3)
    assert (extra_channels.CODE_PADDING, extra_channels.CODE_LABELLED) == (0, 1)


def test_manual_label() -> None:
    segmentation = np.array([-1, 0, 1, 2, 3], np.int16).reshape(1, 5, 1, 1)
    extras = layout(ignore_label=3).of_manual_label(segmentation)[:, :, 0, 0]
    assert extras.dtype == np.int16
    assert extras[0].tolist() == [1, 1, 1, 1, 0]
    assert extras[1].tolist() == [SCALE] * 5
    assert (extras[2:] // SCALE).tolist() == [[1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0]]


def test_manual_label_of_regions_and_without_probabilities() -> None:
    segmentation = np.array([-1, 0, 1, 2], np.int16).reshape(1, 4, 1, 1)
    extras = layout(regions=True).of_manual_label(segmentation)[:, :, 0, 0]
    assert (extras // SCALE).tolist() == [[0] * 4, [1] * 4, [1] * 4, [0, 0, 1, 1], [0, 0, 0, 1]]
    assert layout(probabilities=0).of_manual_label(segmentation).shape == (2, 4, 1, 1)


@pytest.mark.parametrize(("confidence", "probabilities"), [(2, 3), (1, 2)])
def test_wrong_numbers_of_channels(confidence: int, probabilities: int) -> None:
    labels = SimpleNamespace(has_regions=False, all_labels=[0, 1, 2], ignore_label=None)
    with pytest.raises(StateError, match="write the stage again"):
        ExtraLayout.for_stage(labels, confidence, probabilities)


def spatial_pipeline(
    patch: tuple[int, ...], *, dummy_2d: bool = False, regions: bool = False, seed: int = 0, thresholds: tuple[float, ...] | None = None
) -> Any:
    """The student's pipeline with a rotation and a scaling in every sample, and without changes of intensity."""
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    dim = len(patch)
    stock = nnUNetTrainer.get_training_transforms(
        np.array(patch),
        (-0.5, 0.5),
        [[1.0] * dim, [0.5] * dim],
        tuple(range(dim)),
        dummy_2d,
        regions=REGIONS if regions else None,
    )
    kept = [t for t in stock.transforms if not is_intensity_transform(t)]
    for transform in kept:
        if isinstance(transform, SpatialTransform):
            transform.p_rotation = transform.p_scaling = 1
    num_channels = layout(regions=regions).num_channels
    return student_pipeline(ComposeTransforms(kept), num_channels=num_channels, strong=False, thresholds=thresholds)


def sample(shape: tuple[int, ...], *, code: int, padding: int, regions: bool = False) -> dict[str, Any]:
    """A crop with `padding` voxels of padding before the first axis; the first image channel is the confidence, the second validity."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(n) for n in shape], indexing="ij")).float()
    smooth = 0.5 + 0.4 * torch.sin(grid.sum(0) / 3) * torch.cos(grid[0] / 2)
    confidence = torch.round(smooth * SCALE)
    label = (confidence > 4000).to(torch.int16) + (confidence > 7000).to(torch.int16)
    heads = [label >= 1, label >= 2] if regions else [label == k for k in range(3)]
    channels = [torch.full(shape, code), *[confidence] * (2 if regions else 1), *[h * SCALE for h in heads]]
    stack = torch.stack([label, *[c.to(torch.int16) for c in channels]])
    image = torch.stack([confidence / SCALE, torch.ones(shape)])
    stack[:, :padding], image[:, :padding] = -1, 0
    return {"image": image, "segmentation": stack}


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize(
    ("shape", "patch", "dummy_2d"),
    [((16, 18, 20), (12, 12, 12), False), ((8, 20, 22), (8, 16, 16), True), ((20, 22), (16, 16), False)],
    ids=["3d", "dummy-2d", "2d"],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_stays_aligned_with_the_image(shape: tuple[int, ...], patch: tuple[int, ...], dummy_2d: bool, regions: bool, seed: int) -> None:
    result = spatial_pipeline(patch, dummy_2d=dummy_2d, regions=regions, seed=seed)(**sample(shape, code=2, padding=3, regions=regions))
    seg, seg_half, extra, extra_half = result["segmentation"]
    values, validity = result["image"]
    code, confidence = extra[0], extra[1].float() / SCALE
    clear = (validity - 0.5).abs() > 1e-3
    assert ((code == 2) == (validity > 0.5))[clear].all()
    assert ((code == 3) == (validity <= 0.5))[clear].all()
    inside = (code == 2) & (validity > 0.6)
    torch.testing.assert_close(confidence[inside], (values / validity)[inside], atol=2e-4, rtol=0)
    assert (extra[1:, code == 3] == 0).all()
    assert seg.shape[1:] == extra.shape[1:] == patch
    assert seg_half.shape[1:] == extra_half.shape[1:] == tuple(n // 2 for n in patch)
    assert extra.dtype == extra_half.dtype == torch.int16
    _segmentation_agrees(seg, extra, regions)


def _segmentation_agrees(seg: torch.Tensor, extra: torch.Tensor, regions: bool) -> None:
    """The label is the most probable class wherever that is beyond doubt."""
    valid, probabilities = extra[0] == 2, extra[3 if regions else 2 :].float() / SCALE
    if regions:
        sure = valid & ((probabilities - 0.5).abs() > 0.25).all(0)
        assert sure.sum() > 50
        assert ((probabilities > 0.5) == seg.bool())[:, sure].all()
    else:
        sure = valid & (probabilities.amax(0) > 0.75)
        assert sure.sum() > 50
        assert (probabilities.argmax(0) == seg[0])[sure].all()


def two_classes(confidence: tuple[float, float, float]) -> dict[str, Any]:
    """A crop of the pool with a ball of class 1 around a ball of class 2, each class with one confidence."""
    shape = (20, 20, 20)
    radius = torch.stack(torch.meshgrid(*[torch.arange(n) - (n - 1) / 2 for n in shape], indexing="ij")).norm(dim=0)
    label = (radius < 8).to(torch.int16) + (radius < 5).to(torch.int16)
    stored = (torch.tensor(confidence)[label.long()] * SCALE).round()
    channels = [label, torch.full(shape, 2), stored, *[(label == k) * SCALE for k in range(3)]]
    return {"image": torch.zeros(1, *shape), "segmentation": torch.stack([c.to(torch.int16) for c in channels])}


@pytest.mark.parametrize("seed", range(4))
def test_no_voxel_changes_its_side_of_the_threshold_where_classes_differ(seed: int) -> None:
    """Class 1 needs 0.5 and has 0.6, class 2 needs 0.99 and has 0.995: all can be trusted, and between them still all can."""
    tau = (0.5, 0.5, 0.99)
    plain, kept = (
        spatial_pipeline((12, 12, 12), seed=seed, thresholds=thresholds)(**two_classes((0.6, 0.6, 0.995)))["segmentation"]
        for thresholds in (None, tau)
    )
    of_voxel = torch.tensor(tau)[kept[0][0].long()]
    assert set(kept[0].unique().tolist()) == {0, 1, 2}
    assert (plain[2][1] / SCALE < of_voxel - 1e-6).sum() > 10
    assert not (kept[2][1] / SCALE < of_voxel - 1e-6).any()
    assert kept[2].shape == plain[2].shape
    assert torch.equal(kept[2][2:], plain[2][2:])
    assert torch.equal(kept[0], plain[0])


def test_no_doubtful_voxel_becomes_one_to_trust_where_classes_differ() -> None:
    """Class 2 lies below its 0.99 everywhere, class 1 far above its 0.5."""
    tau = (0.5, 0.5, 0.99)
    seg, _, extra, _ = spatial_pipeline((12, 12, 12), thresholds=tau)(**two_classes((0.995, 0.995, 0.6)))["segmentation"]
    inner = seg[0] == 2
    assert inner.sum() > 20
    # those that were interpolated from class 1 for the larger part have its side; the others are below
    high = extra[1] >= 9900
    assert (high & inner).sum() < 0.3 * inner.sum()
    assert (extra[1] >= 5000)[~inner].all()


def test_thresholds_of_labelled_samples_change_nothing() -> None:
    plain, kept = (
        spatial_pipeline((12, 12, 12), thresholds=t)(**sample((16, 18, 20), code=1, padding=6))["segmentation"]
        for t in (None, (0.5, 0.7, 1.0))
    )
    valid = plain[2][0] == 1
    assert torch.equal(kept[2][0], plain[2][0])
    assert (kept[2][1][~valid] == 0).all()


def test_stored_values_that_reach_a_threshold() -> None:
    """Whatever the threshold: exactly those reach it that the loss takes for confident, which compares in float32."""
    stored = torch.arange(SCALE + 1, dtype=torch.float32)
    for tau in (0.0, 0.5, 0.54, 0.66, 0.7, 0.82, 0.98, 0.99, 1.0, 0.12345, 1 / 3):
        reached = stored / torch.full((), SCALE, dtype=torch.float32) >= torch.tensor(tau, dtype=torch.float32)
        assert stored[reached].min() == extra_channels._in_steps([tau])[0], tau


def test_labelled_sample_and_its_padding() -> None:
    result = spatial_pipeline((12, 12, 12))(**sample((16, 18, 20), code=1, padding=6))
    code = result["segmentation"][2][0]
    assert result["pool"] is False
    assert set(code.unique().tolist()) == {0, 1}


def test_ignored_voxels_stay_ignored_and_lend_nothing_to_others() -> None:
    data = sample((16, 16, 16), code=2, padding=0)
    data["segmentation"][1, :, :, :8] = 3
    data["segmentation"][2, :, :, :8] = 0
    extra = spatial_pipeline((12, 12, 12))(**data)["segmentation"][2]
    assert set(extra[0].unique().tolist()) == {2, 3}
    assert extra[1][extra[0] == 2].min() >= 900


def test_without_deep_supervision() -> None:
    pipeline = student_pipeline(ComposeTransforms([]), num_channels=5, strong=False)
    result = pipeline(**sample((4, 4, 4), code=2, padding=0))
    assert [tuple(s.shape) for s in result["segmentation"]] == [(1, 4, 4, 4), (5, 4, 4, 4)]


def test_previous_stage_of_a_cascade_stays_second() -> None:
    data = sample((4, 4, 4), code=2, padding=0)
    data["segmentation"] = torch.cat([data["segmentation"], torch.full((1, 4, 4, 4), 7, dtype=torch.int16)])
    seg, _ = student_pipeline(ComposeTransforms([]), num_channels=5, strong=False)(**data)["segmentation"]
    assert seg.shape[0] == 2
    assert (seg[1] == 7).all()
