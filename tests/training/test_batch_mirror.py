"""Mirroring by batch: alike within a batch, every axis as often as nnU-Net has it, and only where samples are mixed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

from nnunet_ssl.training.batch_mirror import BatchMirror, draw_mirrors, mirrored_by_batch
from nnunet_ssl.training.stage_loader import StageDataLoader
from nnunet_ssl.training.student_pipeline import student_pipeline

IMAGE = torch.arange(8.0).reshape(1, 2, 2, 2)


def mirrored(pipeline: Any) -> tuple[float, ...]:
    """Image after mirroring, as its values in order."""
    return tuple(pipeline(image=IMAGE)["image"].flatten().tolist())


def test_samples_between_two_draws_are_mirrored_alike() -> None:
    torch.manual_seed(0)
    pipeline = ComposeTransforms([BatchMirror((0, 1, 2))])
    seen = []
    for _ in range(400):
        draw_mirrors(pipeline)
        first, second = mirrored(pipeline), mirrored(pipeline)
        assert first == second
        seen.append(first)
    counts = {result: seen.count(result) for result in set(seen)}
    # eight orientations, fifty times each but for chance
    assert len(counts) == 8
    assert all(25 < count < 80 for count in counts.values())


def test_segmentations_are_mirrored_with_their_image() -> None:
    torch.manual_seed(1)
    mirror = BatchMirror((0, 2))
    for _ in range(10):
        mirror.draw()
        found = mirror(image=IMAGE, segmentation=IMAGE.to(torch.int16))
        assert torch.equal(found["image"], found["segmentation"].float())


def test_only_nnunets_own_mirroring_is_replaced() -> None:
    other = ComposeTransforms([])
    replaced = mirrored_by_batch([other, MirrorTransform((1,))])
    assert replaced[0] is other
    assert isinstance(replaced[1], BatchMirror)
    assert replaced[1].allowed_axes == (1,)


@pytest.mark.parametrize("mixes", [False, True])
def test_a_pipeline_mirrors_by_batch_where_samples_are_mixed(mixes: bool) -> None:
    stock = ComposeTransforms([MirrorTransform((0, 1, 2))])
    pipeline = student_pipeline(stock, num_channels=1, strong=True, mixes=mixes)
    mirrors = [transform for transform in pipeline.transforms if isinstance(transform, MirrorTransform)]
    assert [isinstance(mirror, BatchMirror) for mirror in mirrors] == [mixes]
    assert type(stock.transforms[0]) is MirrorTransform


def test_the_loader_draws_for_every_batch() -> None:
    torch.manual_seed(2)
    mirror = BatchMirror((0, 1, 2))
    dataset = SimpleNamespace(labelled=np.array(["a"]), pool=np.array(["b"]), labelled_share=0.5, identifiers=["a", "b"])
    labels = SimpleNamespace(all_labels=[0, 1], has_ignore_label=False)
    loader: Any = StageDataLoader(dataset, 2, (4, 4), (4, 4), labels, transforms=ComposeTransforms([mirror]))
    seen = set()
    for _ in range(60):
        loader.get_indices()
        seen.add(tuple(mirror.get_parameters()["axes"]))
    assert len(seen) == 8
