"""Batches that lack something, and logits at their ends: every loss is finite, and so is its gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.utilities.helpers import softmax_helper_dim1
from torch import Tensor

from nnunet_ssl.config import UNLEARNING_MODES, StudentConfig
from nnunet_ssl.training.extra_channels import CODE_LABELLED, CODE_PADDING, CODE_POOL
from nnunet_ssl.training.student_loss import DualLoss

SHAPE, IGNORE = (4, 5, 6), 3
SHARE = 10_000
KINDS = ["classes", "regions"]


def supervised(kind: str, *, ignore: bool) -> Any:
    """nnU-Net's own loss, as its trainer builds it."""
    dice = {"batch_dice": False, "smooth": 1e-5, "ddp": False}
    if kind == "regions":
        return DC_and_BCE_loss({}, {"do_bg": True, **dice}, use_ignore_label=ignore, dice_class=MemoryEfficientSoftDiceLoss)
    label = IGNORE if ignore else None
    options = {"weight_ce": 1, "weight_dice": 1, "ignore_label": label, "dice_class": MemoryEfficientSoftDiceLoss}
    return DC_and_CE_loss({"do_bg": False, **dice}, {}, **options)


def loss_of(kind: str, *, ignore: bool = False, **settings: Any) -> DualLoss:
    regions = kind == "regions"
    config = StudentConfig(**{"tau": 0.7, **settings})
    outputs = 2 if regions else 3
    found = DualLoss(
        supervised=supervised(kind, ignore=ignore),
        config=config,
        has_regions=regions,
        num_outputs=outputs,
        batch_dice=False,
        is_distributed=False,
    )
    return found


def batch(kind: str, *, ignore: bool = False, confidence: float = 0.9, logits: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, nnU-Net's target and the extra channels of one labelled and one pool sample."""
    generator = torch.Generator().manual_seed(0)
    outputs = 2 if kind == "regions" else 3
    output = logits * torch.randn(2, outputs, *SHAPE, generator=generator)
    if kind == "regions":
        target = torch.randint(0, 2, (2, outputs + ignore, *SHAPE), generator=generator)
        if ignore:
            target[:, -1] = 0
    else:
        target = torch.randint(0, outputs, (2, 1, *SHAPE), generator=generator)
    channels = outputs if kind == "regions" else 1
    extra = torch.zeros(2, 1 + channels + outputs, *SHAPE, dtype=torch.int16)
    extra[0, 0], extra[1, 0] = CODE_LABELLED, CODE_POOL
    extra[:, 1 : 1 + channels] = int(confidence * SHARE)
    extra[:, 1 + channels :] = SHARE // outputs
    return output.requires_grad_(), target, extra


def check(loss: DualLoss, output: Tensor, target: Tensor, extra: Tensor) -> Tensor:
    """Its value, once value, terms and gradient are known to be finite."""
    value = loss(output, [target, extra])
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(output.grad).all()
    assert torch.isfinite(loss.last_terms["loss_high"])
    assert torch.isfinite(loss.last_terms["loss_low"])
    return value  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("confidence", [0.3, 0.9])
def test_no_labelled_voxel(kind: str, confidence: float) -> None:
    """The labelled sample is all ignore label: nothing of it teaches, the pool's sample goes on teaching, or unlearning."""
    output, target, extra = batch(kind, ignore=True, confidence=confidence)
    extra[0, 0] = CODE_PADDING
    if kind == "regions":
        target[0, -1] = 1
    else:
        target[0] = IGNORE
    loss = loss_of(kind, ignore=True)
    check(loss, output, target, extra)
    assert torch.equal(output.grad[0], torch.zeros_like(output.grad[0]))
    assert output.grad[1].abs().sum() > 0
    assert torch.isfinite(loss.last_terms["loss_supervised"])


@pytest.mark.parametrize("kind", KINDS)
def test_without_labelled_voxels_the_last_factor_of_the_cap_stays(kind: str) -> None:
    loss = loss_of(kind, ignore=True, unlearning_gradient_ratio=0.01)
    output, target, extra = batch(kind, ignore=True, confidence=0.3)
    check(loss, output, target, extra)
    ratio, measured = loss.last_terms["unlearning_gradient_ratio"], output.grad[1].clone()
    assert ratio > 0.01  # it was held
    output, target, extra = batch(kind, ignore=True, confidence=0.3)
    if kind == "regions":
        target[0, -1] = 1
    else:
        target[0] = IGNORE
    check(loss, output, target, extra)
    torch.testing.assert_close(output.grad[1], measured)
    assert loss.last_terms["unlearning_gradient_ratio"].isnan()


@pytest.mark.parametrize("kind", KINDS)
def test_pool_sample_of_padding_alone(kind: str) -> None:
    """Code 0 tells nothing of where a sample comes from, so all of the batch is supervised; its zeros are labels of nothing."""
    output, target, extra = batch(kind)
    loss = loss_of(kind)
    extra[1, 0] = 3  # ignored: what padding of a pool sample is packed as
    check(loss, output, target, extra)
    assert float(loss.last_terms["loss_high"]) == float(loss.last_terms["loss_low"]) == 0
    assert torch.equal(output.grad[1], torch.zeros_like(output.grad[1]))
    assert output.grad[0].abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalisation", ["joint", "separate"])
def test_no_confident_voxel(kind: str, normalisation: str) -> None:
    output, target, extra = batch(kind, confidence=0.3)
    loss = loss_of(kind, normalisation=normalisation)
    check(loss, output, target, extra)
    assert float(loss.last_terms["loss_high"]) == 0
    assert float(loss.last_terms["loss_low"]) > 0
    assert float(loss.last_terms["confident_share"]) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0, 1])
def test_a_class_vanishes_from_labels_and_targets(kind: str, value: int) -> None:
    """Neither the manual label nor the pseudo-label has any class but one; q has none of the others either."""
    output, target, extra = batch(kind)
    target[:] = value
    heads = 2 if kind == "regions" else 3
    extra[:, -heads:] = 0
    if kind == "classes":
        extra[:, -heads + value] = SHARE
    loss = loss_of(kind)
    check(loss, output, target, extra)
    per_class = loss.last_terms["confident_share_per_class"]
    assert per_class.isnan().sum() == (2 if kind == "classes" or value == 0 else 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", UNLEARNING_MODES)
@pytest.mark.parametrize("logits", [1e3, 1e6])
def test_an_exploding_unlearning_term_has_a_bounded_gradient(kind: str, mode: str, logits: float) -> None:
    """A student that is certain of the opposite at every voxel, without the cap: at most one unit of gradient a voxel and head."""
    output, target, extra = batch(kind, confidence=0.3, logits=logits)
    loss = loss_of(kind, unlearning=mode, unlearning_gradient_ratio=None, lambda_low=1.0)
    check(loss, output, target, extra)
    voxels = output[0, 0].numel() * (output.shape[1] if kind == "regions" else 1)
    heads = output.shape[1]
    assert float(output.grad[1].abs().max()) * voxels <= heads + 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", [mode for mode in UNLEARNING_MODES if mode != "off"])
def test_the_cap_holds_whatever_the_weight(kind: str, mode: str) -> None:
    """R_low with an absurd weight moves the logits by no more than a tenth of what L_sup does."""
    output, target, extra = batch(kind, confidence=0.3, logits=3.0)
    settings = {"unlearning": mode, "lambda_low": 1e6}
    check(loss_of(kind, **settings, unlearning_gradient_ratio=0.1), output, target, extra)
    of_pool, of_labelled = output.grad[1].norm(), output.grad[0].norm()
    assert float(of_pool) <= 0.1 * float(of_labelled) * (1 + 1e-4)


def test_a_loss_of_one_part_is_taken_as_it_is() -> None:
    """As that of nnU-Net's trainers of Dice alone, which have no part named `dc`."""
    alone = MemoryEfficientSoftDiceLoss(apply_nonlin=softmax_helper_dim1, batch_dice=False, do_bg=False, smooth=1e-5, ddp=False)
    loss = DualLoss(
        supervised=alone, config=StudentConfig(tau=0.7), has_regions=False, num_outputs=3, batch_dice=False, is_distributed=False
    )
    output, target, extra = batch("classes", confidence=0.3)
    check(loss, output, target, extra)
