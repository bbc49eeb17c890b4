"""The losses on one labelled and one pool sample of two voxels, two outputs, worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from nnunet_ssl.training.peers.cross_pseudo_supervision import CrossLoss, decisions
from nnunet_ssl.training.peers.mean_teacher import ConsistencyLoss
from nnunet_ssl.training.peers.naive_self_training import WholeBatchLoss
from nnunet_ssl.training.peers.peer_loss import PeerLoss, pool_samples
from nnunet_ssl.training.peers.uncertainty_aware_mean_teacher import CertainConsistencyLoss

LN2, LN3 = math.log(2), math.log(3)
CE = math.log(4 / 3)
"""Cross-entropy of probability 3/4."""
SUPERVISED = {False: LN2 - 1 / 2, True: LN2 - (1 / 2 + 2 / 3) / 2}
"""Cross-entropy minus soft Dice of the labelled sample: p = 1/2; label (0, 1); regions inside at (first, -) and (first, second)."""


def stock(regions: bool) -> Any:
    """The loss nnU-Net's trainer builds, without deep supervision."""
    dice = {"batch_dice": False, "smooth": 0, "ddp": False}
    if regions:
        return DC_and_BCE_loss({}, {**dice, "do_bg": True}, dice_class=MemoryEfficientSoftDiceLoss)
    return DC_and_CE_loss({**dice, "do_bg": False}, {}, dice_class=MemoryEfficientSoftDiceLoss)


def peer(kind: type[PeerLoss], regions: bool) -> Any:
    return kind(supervised=stock(regions), num_outputs=2, has_regions=regions, gathers=False)


def batch(regions: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits (2, 2, 1, 2) with probabilities 1/2 (labelled) and 3/4 of what the pool's label says, and the targets with extras.

    The pool's label is class 1, or inside of both regions, at both voxels; one of them has no validity.
    """
    logits = torch.zeros(2, 2, 1, 2)
    logits[1] = LN3
    if regions:
        target = torch.tensor([[[[1, 0]], [[1, 1]]], [[[1, 1]], [[1, 1]]]])
    else:
        logits[1, 0] = 0
        target = torch.tensor([[[[0, 1]]], [[[1, 1]]]])
    extras = torch.tensor([[[[1, 1]], [[10_000, 10_000]]], [[[2, 3]], [[9_000, 0]]]], dtype=torch.int16)
    return logits.requires_grad_(), [target, extras]


def measured(loss: Any) -> dict[str, float]:
    return {name: value.item() for name, value in loss.last_terms.items()}


@pytest.mark.parametrize("kind", [WholeBatchLoss, ConsistencyLoss, CertainConsistencyLoss, CrossLoss])
@pytest.mark.parametrize("regions", [False, True])
def test_without_extra_channels_it_is_nnunets_loss(kind: Any, regions: bool) -> None:
    logits, (target, _) = batch(regions)
    loss = peer(kind, regions)
    assert loss(logits, target) == stock(regions)(logits, target)
    assert loss.last_terms == {}


def test_pool_samples() -> None:
    assert pool_samples(batch(False)[1]).tolist() == [False, True]
    assert pool_samples([torch.zeros(2, 1, 2)] * 2 + [torch.tensor([[[3, 3]], [[0, 1]]])] * 2).tolist() == [True, False]


@pytest.mark.parametrize("regions", [False, True])
def test_naive_self_training(regions: bool) -> None:
    logits, target = batch(regions)
    loss = peer(WholeBatchLoss, regions)
    # soft Dice of the pool sample: 2 * 1.5 / (1.5 + 2)
    expected = {"loss_supervised": SUPERVISED[regions], "loss_pool": CE - 6 / 7}
    total = loss(logits, target)
    assert measured(loss) == pytest.approx(expected, abs=1e-6)
    assert total.item() == pytest.approx((SUPERVISED[regions] + CE - 6 / 7) / 2, abs=1e-6)
    assert total == stock(regions)(logits, target[0])


@pytest.mark.parametrize("regions", [False, True])
def test_naive_self_training_outside_its_phase_learns_manual_labels_alone(regions: bool) -> None:
    """Batches that were loaded before fine-tuning began hold pool samples still."""
    logits, target = batch(regions)
    loss = peer(WholeBatchLoss, regions)
    loss.ramp = 0.0
    total = loss(logits, target)
    assert total.item() == pytest.approx(SUPERVISED[regions], abs=1e-6)
    assert math.isnan(measured(loss)["loss_pool"])
    total.backward()
    assert not logits.grad[1].any()
    assert logits.grad[0].any()


@pytest.mark.parametrize(("regions", "difference"), [(False, 1 / 16), (True, 1 / 4)])
def test_mean_teacher(regions: bool, difference: float) -> None:
    logits, target = batch(regions)
    loss = peer(ConsistencyLoss, regions)
    loss.ramp = 0.5
    loss.reference = torch.full((1, 2, 1, 2), 0.25 if regions else 0.5)
    total = loss(logits, target)
    assert measured(loss) == pytest.approx({"loss_supervised": SUPERVISED[regions], "loss_pool": difference, "pool_weight": 0.05}, abs=1e-6)
    assert total.item() == pytest.approx(SUPERVISED[regions] + 0.05 * difference, abs=1e-6)


def test_mean_teacher_follows_the_reference() -> None:
    logits, target = batch(False)
    loss = peer(ConsistencyLoss, False)
    loss.reference = torch.tensor([[[[0.25, 0.5]], [[0.75, 0.5]]]])
    gradient = torch.autograd.grad(loss(logits, target), logits)[0][1]
    # agreement at the first voxel; at the second p = (1/4, 3/4) must fall to (1/2, 1/2):
    # 0.1 * 2 / 4 * sum_j (p_j - p'_j) p_j (delta_jk - p_k) = 0.05 * 3/16 * (-1/2) for the first class
    torch.testing.assert_close(gradient, torch.tensor([[[0.0, -0.0046875]], [[0.0, 0.0046875]]]), atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    ("ramp", "share", "difference"),
    [(0.0, 1 / 2, 1 / 16), (1.0, 1.0, 1 / 32)],
)
def test_uncertainty_aware_mean_teacher(ramp: float, share: float, difference: float) -> None:
    logits, target = batch(False)
    loss = peer(CertainConsistencyLoss, False)
    loss.ramp = ramp
    assert loss.threshold == pytest.approx((3 / 4 + ramp / 4) * LN2)
    # the student differs from the teacher at the first voxel alone; the teacher is unsure of the second
    loss.reference = torch.tensor([[[[0.5, 0.25]], [[0.5, 0.75]]]])
    loss.entropy = torch.tensor([[[[0.1, 0.6]]]])
    total = loss(logits, target)
    expected = {"loss_supervised": SUPERVISED[False], "loss_pool": difference, "pool_weight": ramp * 0.1, "certain_share": share}
    assert measured(loss) == pytest.approx(expected, abs=1e-6)
    assert total.item() == pytest.approx(SUPERVISED[False] + ramp * 0.1 * difference, abs=1e-6)


def test_uncertainty_aware_mean_teacher_of_regions() -> None:
    logits, target = batch(True)
    loss = peer(CertainConsistencyLoss, True)
    loss.ramp = 0.0
    loss.reference = torch.tensor([[[[0.25, 0.5]], [[0.75, 0.5]]]])
    loss.entropy = torch.tensor([[[[0.1, 0.6]], [[0.2, 0.3]]]])
    loss(logits, target)
    # 1/4 in the first region; 0 and 1/16 in the second; the first region's second voxel is uncertain
    assert measured(loss)["loss_pool"] == pytest.approx((1 / 4 + 0 + 1 / 16) / 3)
    assert measured(loss)["certain_share"] == 0.75


def test_a_reference_without_entropy() -> None:
    logits, target = batch(False)
    loss = peer(CertainConsistencyLoss, False)
    loss.reference = torch.full((1, 2, 1, 2), 0.5)
    with pytest.raises(RuntimeError, match="without the teacher's entropy"):
        loss(logits, target)


@pytest.mark.parametrize("regions", [False, True])
def test_cross_pseudo_supervision(regions: bool) -> None:
    logits, target = batch(regions)
    loss = peer(CrossLoss, regions)
    loss.ramp = 0.5
    loss.reference = torch.tensor([[[[1.0, 0.0]], [[1.0, 0.0]]]]) if regions else torch.tensor([[[1, 0]]])
    total = loss(logits, target)
    cross = (CE + math.log(4)) / 2
    assert measured(loss) == pytest.approx({"loss_supervised": SUPERVISED[regions], "loss_pool": cross, "pool_weight": 0.75}, abs=1e-6)
    assert total.item() == pytest.approx(SUPERVISED[regions] + 0.75 * cross, abs=1e-6)
    assert (loss.decided == 1).all()
    assert loss.decided.shape == loss.reference.shape


def test_decisions() -> None:
    logits = torch.tensor([[[1.0, -1.0], [2.0, -2.0]]])
    assert decisions(logits, has_regions=False).tolist() == [[1, 0]]
    assert decisions(logits, has_regions=True).tolist() == [[[1, 0], [1, 0]]]


@pytest.mark.parametrize("kind", [ConsistencyLoss, CertainConsistencyLoss, CrossLoss])
def test_pseudo_labels_and_their_confidence_are_not_used(kind: Any) -> None:
    logits, target = batch(False)
    totals = []
    for pool_label, code in ((1, 2), (0, 3)):
        target[0][1], target[1][1, 0], target[1][1, 1] = pool_label, code, 100 * code
        loss = peer(kind, False)
        loss.reference = torch.tensor([[[1, 0]]]) if kind is CrossLoss else torch.tensor([[[[0.1, 0.2]], [[0.9, 0.8]]]])
        loss.entropy = torch.zeros(1, 1, 1, 2)
        totals.append(loss(logits, target).item())
    assert totals[0] == totals[1]


@pytest.mark.parametrize("kind", [WholeBatchLoss, ConsistencyLoss, CertainConsistencyLoss, CrossLoss])
@pytest.mark.parametrize(("row", "missing"), [(0, "loss_pool"), (1, "loss_supervised")])
def test_batches_of_one_kind(kind: Any, row: int, missing: str) -> None:
    logits, target = batch(False)
    loss = peer(kind, False)
    total = loss(logits[row : row + 1], [t[row : row + 1] for t in target])
    total.backward()
    assert math.isfinite(total.item())
    assert math.isnan(measured(loss)[missing])


@pytest.mark.parametrize("kind", [ConsistencyLoss, CrossLoss])
def test_only_the_finest_output_is_held_against_the_reference(kind: Any) -> None:
    logits, (target, extras) = batch(False)
    coarse = torch.randn(2, 2, 1, 1, requires_grad=True)
    supervised = DeepSupervisionWrapper(stock(False), (0.75, 0.25))
    loss: Any = kind(supervised=supervised, num_outputs=2, has_regions=False, gathers=False)
    loss.reference = torch.tensor([[[0, 0]]]) if kind is CrossLoss else torch.full((1, 2, 1, 2), 0.5)
    loss([logits, coarse], [target, target[..., :1], extras, extras[..., :1]]).backward()
    assert (coarse.grad[0] != 0).all()
    assert (coarse.grad[1] == 0).all()
    assert (logits.grad[1] != 0).all()
