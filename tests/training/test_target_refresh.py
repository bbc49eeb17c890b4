"""Soft targets that follow the moving average: by hand, in the loader and in real trainings of seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.base.basic_transform import ImageOnlyTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from short_training import log, run
from torch import Tensor
from torch.nn.functional import interpolate

from nnunet_ssl.training.peers.cross_pseudo_supervision import CrossPseudoSupervisionTrainer
from nnunet_ssl.training.peers.mean_teacher import MeanTeacherTrainer
from nnunet_ssl.training.peers.naive_self_training import NaiveSelfTrainingTrainer
from nnunet_ssl.training.peers.uncertainty_aware_mean_teacher import UAMTTrainer
from nnunet_ssl.training.student import TransASPPStudentTrainer
from nnunet_ssl.training.target_refresh import TargetRefresh, mix_into_targets
from nnunet_ssl.training.weak_view import BesideWeakView, split_views

Settings = Callable[..., dict[str, Any]]
PEERS = [NaiveSelfTrainingTrainer, MeanTeacherTrainer, UAMTTrainer, CrossPseudoSupervisionTrainer]


def target(codes: tuple[int, int], q: tuple[int, int] = (9000, 1000)) -> list[Tensor]:
    """Two samples of 4 x 4 pixels and two classes at two scales, with one code per sample; confidence 9000 everywhere."""
    extra = torch.tensor([[code, 9000, *q] for code in codes], dtype=torch.int16)[:, :, None, None].repeat(1, 1, 4, 4)
    seg = torch.zeros(2, 1, 4, 4, dtype=torch.int16)
    return [seg, seg[..., ::2, ::2], extra, interpolate(extra.float(), (2, 2), mode="nearest-exact").to(torch.int16)]


def prediction(foreground: float) -> Tensor:
    """One sample's probabilities."""
    return torch.tensor([1 - foreground, foreground])[None, :, None, None].repeat(1, 1, 4, 4)


def test_mix_by_hand() -> None:
    mixed = target((1, 2))
    mixed[2][1, 0, 0, 0] = 3
    mix_into_targets(mixed, prediction(0.5), share=0.25, num_confidence=1)
    # 0.75 * 0.9 + 0.25 * 0.5 and 0.75 * 0.1 + 0.25 * 0.5
    assert mixed[2][1, 2:, 1, 1].tolist() == [8000, 2000]
    assert mixed[2][1, 2:, 0, 0].tolist() == [9000, 1000], "an ignored voxel"
    assert (mixed[3][1, 2] == 8000).all()
    untouched = target((1, 2))
    untouched[2][1, 0, 0, 0] = 3
    assert all(torch.equal(a[0], b[0]) for a, b in zip(mixed, untouched, strict=True)), "a labelled sample"
    assert all(torch.equal(a[:, :2], b[:, :2]) for a, b in zip(mixed, untouched, strict=True)), "code and confidence"


def test_every_scale_is_what_down_sampling_gives() -> None:
    mixed = target((2, 1))
    mix_into_targets(mixed, torch.rand(1, 2, 4, 4, generator=torch.Generator().manual_seed(0)), share=0.5, num_confidence=1)
    assert torch.equal(interpolate(mixed[2].float(), (2, 2), mode="nearest-exact").to(torch.int16), mixed[3])


def test_the_share_rises_over_the_first_half() -> None:
    refresh = TargetRefresh(final=0.5, steps=100, num_confidence=1, is_augmented=True)
    assert [refresh.share(step) for step in (0, 25, 50, 99)] == [0, 0.25, 0.5, 0.5]


def test_the_average_is_asked_about_pool_samples_alone() -> None:
    refresh = TargetRefresh(final=1.0, steps=2, num_confidence=1, is_augmented=True)
    seen: list[Tensor] = []

    def predict(images: Tensor) -> Tensor:
        seen.append(images)
        return prediction(1.0)

    images = torch.stack([torch.full((2, 4, 4), 7.0), torch.full((2, 4, 4), 8.0)])
    batch, weak = refresh.views({"data": torch.cat([images, images + 10], 1), "target": target((1, 2)), "keys": ["a", "b"]})
    assert batch["data"].unique().tolist() == [7, 8]
    refresh(batch["target"], weak, step=0, predict=predict)
    assert not seen, "nothing is asked while the share is 0"
    refresh(batch["target"], weak, step=1, predict=predict)
    assert [s.unique().tolist() for s in seen] == [[18.0]]
    assert batch["target"][2][1, 2:, 0, 0].tolist() == [0, 10_000]
    refresh(target((1, 1)), weak, step=1, predict=predict)
    assert len(seen) == 1, "nothing is asked about labelled samples"


class AddOneInPlace(ImageOnlyTransform):
    def _apply_to_image(self, img: Tensor, **params: Any) -> Tensor:
        return img.add_(1)


def test_the_weak_view_is_untouched_and_masked() -> None:
    mask = MaskImageTransform(apply_to_channels=[1], channel_idx_in_seg=0, set_outside_to=0)
    pipeline = ComposeTransforms([BesideWeakView(AddOneInPlace(), masks=[mask]), mask])
    segmentation = torch.tensor([[[-1, 0]]], dtype=torch.int16)
    image = pipeline(image=torch.full((2, 1, 2), 5.0), segmentation=segmentation)["image"]
    strong, weak = split_views(image[None])
    assert strong[0, :, 0].tolist() == [[6, 6], [0, 6]]
    assert weak[0, :, 0].tolist() == [[5, 5], [0, 5]]


def test_the_loader_gives_both_views_in_the_last_stage_alone(tiny: Any, short: Settings) -> None:
    settings = short(student={"refresh": 0.5})
    for stage, channels in ((1, 1), (2, 2)):
        tiny.write_sidecar(stage=stage)
        trainer = tiny.trainer(TransASPPStudentTrainer, settings=settings)
        trainer.initialize()
        training, validation = trainer.get_dataloaders()
        batch = next(training)
        assert batch["data"].shape[1] == channels
        assert next(validation)["data"].shape[1] == 1
    strong, weak = split_views(batch["data"])
    for sample, key in enumerate(batch["keys"]):
        assert key.startswith("pool") or torch.equal(strong[sample], weak[sample])


@pytest.mark.parametrize("options", [{}, {"dim": 2, "patch": (16, 16)}, {"regions": True}], ids=["3d", "2d", "regions"])
def test_a_last_stage_with_refreshed_targets(make_tiny: Any, short: Settings, options: dict[str, Any]) -> None:
    tiny = make_tiny(**options)
    tiny.write_sidecar(stage=2)
    settings = short(iterations=3, student={"refresh": 1.0, "fine_tune_epochs": 1, "distillation_epochs": 1})
    trainer = tiny.trainer(TransASPPStudentTrainer, settings=settings)
    asked, predict = [], trainer._average_prediction

    def watched(images: Tensor) -> Tensor:
        before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
        probs = predict(images)
        assert trainer.network.training
        assert all(torch.equal(before[name], value) for name, value in trainer.network.state_dict().items())
        assert not probs.requires_grad
        asked.append(probs)
        return probs

    trainer._average_prediction = watched
    run(trainer)
    assert len(asked) == 2 * 3 - 1, "every step of the two semi-supervised epochs but the first"
    assert all(((p >= 0) & (p <= 1)).all() for p in asked)
    assert np.isfinite(log(trainer)["train_losses"]).all()


def test_the_targets_that_the_loss_gets_are_the_averages(tiny: Any, short: Settings) -> None:
    tiny.write_sidecar(stage=2)
    trainer = tiny.trainer(TransASPPStudentTrainer, settings=short(student={"refresh": 1.0, "cutmix": 0.0}))
    trainer.initialize()
    trainer.on_train_start()
    batch = next(trainer.dataloader_train)
    (of_pool,) = [i for i, key in enumerate(batch["keys"]) if key.startswith("pool")]
    expected = trainer._average_prediction(split_views(batch["data"])[1][of_pool : of_pool + 1])
    trainer._step = trainer._semi_supervised_steps
    trainer.train_step(batch)
    extra = batch["target"][len(batch["target"]) // 2][of_pool]
    exists = extra[0] == 2
    assert (extra[2:].float() / 10_000 - expected[0])[:, exists].abs().max() < 1e-4


def test_overflow_leaves_the_evidence() -> None:
    mixed, p = target((1, 2)), prediction(0.5)
    p[0, :, 2, 2] = torch.nan
    mix_into_targets(mixed, p, share=0.5, num_confidence=1)
    assert mixed[2][1, 2:, 2, 2].tolist() == [9000, 1000]
    assert mixed[2][1, 2:, 1, 1].tolist() == [7000, 3000]


def test_a_blind_class_has_no_part_in_the_prediction(tiny: Any, short: Settings) -> None:
    tiny.write_sidecar(stage=2, blind_heads=[2])
    trainer = tiny.trainer(TransASPPStudentTrainer, settings=short(student={"refresh": 1.0}))
    trainer.initialize()
    probs = trainer._average_prediction(torch.zeros(1, 1, 16, 16, 16))
    assert probs[:, 2].max() == 0
    torch.testing.assert_close(probs.sum(1), torch.ones(1, 16, 16, 16))


@pytest.mark.parametrize("kind", PEERS)
def test_peers_never_refresh(tiny: Any, short: Settings, kind: Any) -> None:
    tiny.write_sidecar(stage=2)
    peer = tiny.trainer(kind, settings=short(student={"refresh": 0.5}))
    assert peer.refresh.final == 0
    assert not peer.refresh.needs_weak_view
