"""Masked losses and the moving average on two CPU processes: every process takes part in every collective step, and all stay equal."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss, SoftDiceLoss
from nnunetv2.training.loss.robust_ce_loss import RobustCrossEntropyLoss, TopKLoss
from nnunetv2.utilities.helpers import softmax_helper_dim1
from torch import Tensor, distributed, nn

from nnunet_ssl.confidence.quantise import SHARE_STEPS
from nnunet_ssl.config import StudentConfig
from nnunet_ssl.errors import ConfigError
from nnunet_ssl.training.extra_channels import CODE_LABELLED, CODE_POOL
from nnunet_ssl.training.moving_average import MovingAverage
from nnunet_ssl.training.student_loss import DualLoss
from nnunet_ssl.training.supervised_loss import LabelledLoss

CLASSES, SIDE = 3, 4


def two_processes(folder: Path, work: Callable[[int], None]) -> None:
    """Run `work(rank)` in two processes of one group; what fails in either fails here, and so does waiting for the other."""
    torch.multiprocessing.start_processes(_in_group, args=(str(folder), work), nprocs=2, start_method="fork")


def _in_group(rank: int, folder: str, work: Callable[[int], None]) -> None:
    torch.set_num_threads(1)
    timeout = timedelta(seconds=60)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2, timeout=timeout)
    try:
        work(rank)
    finally:
        distributed.destroy_process_group()


def stock_loss(*, ddp: bool) -> Any:
    """nnU-Net's Dice and cross-entropy with batch Dice."""
    dice = {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": ddp}
    return DC_and_CE_loss(dice, {}, weight_ce=1, weight_dice=1, ignore_label=None, dice_class=MemoryEfficientSoftDiceLoss)


def global_batch(num: int = 4) -> tuple[Tensor, Tensor]:
    """Logits (num, 3, 4, 4, 4) and labels (num, 1, 4, 4, 4), the same in every process."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num, CLASSES, SIDE, SIDE, SIDE, generator=generator)
    return logits, torch.randint(CLASSES, (num, 1, SIDE, SIDE, SIDE), generator=generator)


def mine(rank: int, batch: Tensor) -> Tensor:
    """The half of a global batch that a process has."""
    half = len(batch) // 2
    return batch[rank * half : (rank + 1) * half].clone()


def _batch_dice(rank: int, labelled: list[bool]) -> None:
    logits, labels = global_batch()
    is_labelled = torch.tensor(labelled)
    own = mine(rank, logits).requires_grad_()
    loss = LabelledLoss(stock_loss(ddp=True), num_outputs=CLASSES, gathers=True)
    found = loss([own], [mine(rank, labels)], mine(rank, is_labelled))
    found.backward()
    # alone, over the labelled samples of both: one Dice for all, and each process's own cross-entropy
    alone = stock_loss(ddp=False)
    dice = alone.dc(logits[is_labelled], labels[is_labelled])
    some = mine(rank, is_labelled)
    entropy = nn.functional.cross_entropy(mine(rank, logits)[some], mine(rank, labels)[some, 0]) if bool(some.any()) else torch.zeros(())
    torch.testing.assert_close(found.detach(), dice + entropy)
    assert own.grad is not None
    assert torch.equal(own.grad.flatten(1).abs().sum(1) > 0, some)  # pool samples teach nothing here


def lone_dice(kind: type[nn.Module], *, regions: bool, ddp: bool) -> Any:
    """The loss of nnU-Net's trainers of Dice alone."""
    return kind(apply_nonlin=torch.sigmoid if regions else softmax_helper_dim1, batch_dice=True, do_bg=regions, smooth=1e-5, ddp=ddp)


def _lone_dice(rank: int, labelled: list[bool]) -> None:
    logits, labels = global_batch()
    is_labelled = torch.tensor(labelled)
    for kind, regions in itertools.product((MemoryEfficientSoftDiceLoss, SoftDiceLoss), (False, True)):
        targets = torch.cat([labels > 0, labels > 1, labels > 2], dim=1) if regions else labels
        own = mine(rank, logits).requires_grad_()
        loss = LabelledLoss(lone_dice(kind, regions=regions, ddp=True), num_outputs=CLASSES, gathers=True)
        found = loss([own], [mine(rank, targets)], mine(rank, is_labelled))
        found.backward()
        alone = lone_dice(kind, regions=regions, ddp=False)
        torch.testing.assert_close(found.detach(), alone(logits[is_labelled], targets[is_labelled]))
        torch.testing.assert_close(loss([logits], [targets]).detach(), alone(logits, targets))  # of a validation, the same in both
        assert own.grad is not None
        assert torch.equal(own.grad.flatten(1).abs().sum(1) > 0, mine(rank, is_labelled))


@pytest.mark.parametrize("labelled", [[True, False, False, True], [False, False, True, False]])
def test_dice_alone_is_that_of_all_labelled_samples(tmp_path: Path, labelled: list[bool]) -> None:
    two_processes(tmp_path, lambda rank: _lone_dice(rank, labelled))


@pytest.mark.parametrize("wrapped", [False, True])
def test_losses_of_one_part_are_built_for_several_processes(wrapped: bool) -> None:
    """Those of nnU-Net's own trainers, none of which has an ignore label."""
    options = {"config": StudentConfig(), "has_regions": False, "num_outputs": CLASSES, "batch_dice": True, "is_distributed": True}
    dice = lone_dice(MemoryEfficientSoftDiceLoss, regions=False, ddp=True)
    for part, gathers in ((dice, True), (RobustCrossEntropyLoss(), False), (TopKLoss(k=10), False)):
        supervised = DeepSupervisionWrapper(part, (1.0,)) if wrapped else part
        assert DualLoss(supervised=supervised, **options).supervised.gathers == gathers


@pytest.mark.parametrize("kind", [RobustCrossEntropyLoss, TopKLoss])
def test_a_loss_without_dice_is_that_of_a_process_own_labelled_samples(kind: type[nn.Module]) -> None:
    logits, labels = global_batch()
    is_labelled = torch.tensor([True, False, True, False])
    loss = LabelledLoss(kind(), num_outputs=CLASSES, gathers=True)
    torch.testing.assert_close(loss([logits], [labels], is_labelled), kind()(logits[is_labelled], labels[is_labelled]))
    assert loss([logits], [labels], torch.zeros(4, dtype=torch.bool)) == 0


def test_a_users_loss_that_cannot_leave_out_samples_is_refused() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dice = lone_dice(SoftDiceLoss, regions=False, ddp=True)

    with pytest.raises(ConfigError, match="the loss Mixed sums Dice over several GPUs and cannot leave out samples of the pool"):
        LabelledLoss(Mixed(), num_outputs=CLASSES, gathers=True)
    LabelledLoss(Mixed(), num_outputs=CLASSES, gathers=False)


@pytest.mark.parametrize("labelled", [[True, False, False, True], [True, True, False, False], [False, False, True, False]])
def test_batch_dice_is_that_of_all_labelled_samples(tmp_path: Path, labelled: list[bool]) -> None:
    two_processes(tmp_path, lambda rank: _batch_dice(rank, labelled))


def _gradient_cap(rank: int) -> None:
    config = StudentConfig(unlearning="paper", targets="hard", unlearning_gradient_ratio=0.01, lambda_low=5.0, tau=0.7)
    loss = DualLoss(
        supervised=stock_loss(ddp=True), config=config, has_regions=False, num_outputs=CLASSES, batch_dice=True, is_distributed=True
    )
    # steps in which one process has only labelled samples, then only pool samples, while the other has both
    for kinds in ([CODE_LABELLED, CODE_LABELLED, CODE_LABELLED, CODE_POOL], [CODE_LABELLED, CODE_POOL, CODE_POOL, CODE_POOL]):
        logits, labels = global_batch()
        own = mine(rank, logits).requires_grad_()
        code = torch.tensor(kinds, dtype=torch.int16).view(-1, 1, 1, 1, 1).expand_as(labels)
        confidence = torch.full_like(code, SHARE_STEPS // 4)  # below tau: all of it is unlearned
        channels = [code, confidence, *[confidence] * (CLASSES if config.needs_probabilities else 0)]
        total = loss(own, [mine(rank, labels), mine(rank, torch.cat(channels, 1))])
        total.backward()
        assert bool(torch.isfinite(total))
        assert own.grad is not None
        assert bool(torch.isfinite(own.grad).all())
        mixed = len(set(mine(rank, torch.tensor(kinds)).tolist())) == 2
        ratio = loss.last_terms["unlearning_gradient_ratio"]
        assert bool(torch.isfinite(ratio)) is mixed
        if mixed:
            assert float(ratio) > 0.01
            torch.testing.assert_close(loss.last_scale, 0.01 / ratio)


def test_all_processes_measure_the_gradient_cap_in_every_step(tmp_path: Path) -> None:
    two_processes(tmp_path, _gradient_cap)


def _average(rank: int) -> None:
    torch.manual_seed(rank)
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    wrapped = nn.parallel.DistributedDataParallel(network)
    average = MovingAverage(network, decay=0.9)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for step in range(4):
        optimizer.zero_grad()
        wrapped(torch.randn(2, 2)).square().sum().backward()  # other samples in each process
        optimizer.step()
        average.update()
        for held in (False, True):
            if held:
                average.swap()
            flat = torch.cat([p.detach().flatten() for p in network.parameters()])
            both = [torch.empty_like(flat) for _ in range(2)]
            distributed.all_gather(both, flat)
            assert torch.equal(both[0], both[1]), step
        average.swap()


def test_moving_average_stays_equal(tmp_path: Path) -> None:
    two_processes(tmp_path, _average)
