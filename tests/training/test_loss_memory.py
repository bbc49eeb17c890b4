"""What the losses keep for the backward pass, which the planner's memory model counts per logit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import Tensor

from nnunet_ssl.config import StudentConfig
from nnunet_ssl.networks.gpu_memory import _KEPT_BYTES_PER_LOGIT
from nnunet_ssl.training.student_loss import DualLoss

SIZE = 8


def stock(regions: bool) -> Any:
    dice = {"batch_dice": True, "smooth": 1e-5, "ddp": False}
    if regions:
        return DC_and_BCE_loss({}, {**dice, "do_bg": True}, use_ignore_label=False, dice_class=MemoryEfficientSoftDiceLoss)
    return DC_and_CE_loss({**dice, "do_bg": False}, {}, ignore_label=None, dice_class=MemoryEfficientSoftDiceLoss)


def kept_per_logit(codes: tuple[int, int], heads: int, regions: bool) -> float:
    """Bytes per logit that the student's loss keeps of a batch of two; code 1 is a labelled sample, 2 one from the pool."""
    space = (SIZE, SIZE, SIZE)
    logits = torch.randn(2, heads, *space, requires_grad=True)
    in_half = logits.half()  # as the network leaves them under mixed precision
    target = torch.rand(2, heads, *space) > 0.5 if regions else torch.randint(0, heads, (2, 1, *space)).float()
    confidence = torch.randint(0, 10_001, (2, heads if regions else 1, *space))
    code = torch.tensor(codes).view(2, 1, 1, 1, 1).expand(2, 1, *space)
    extra = torch.cat([code, confidence, torch.randn(2, heads, *space).softmax(1) * 10_000], dim=1).to(torch.int16)
    loss = DualLoss(
        supervised=stock(regions), config=StudentConfig(), has_regions=regions, num_outputs=heads, batch_dice=True, is_distributed=False
    )
    kept: dict[int, Tensor] = {logits.untyped_storage()._cdata: logits[:0]}

    def pack(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss([in_half], [target, extra])
    own = logits.untyped_storage()._cdata
    return sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key != own) / logits.numel()


@pytest.mark.parametrize("heads", [3, 14])
@pytest.mark.parametrize("regions", [False, True])
def test_a_mixed_batch_keeps_what_the_memory_model_says(heads: int, regions: bool) -> None:
    assert 0.5 * _KEPT_BYTES_PER_LOGIT < kept_per_logit((1, 2), heads, regions) <= _KEPT_BYTES_PER_LOGIT


@pytest.mark.parametrize("regions", [False, True])
def test_the_teacher_keeps_less(regions: bool) -> None:
    assert kept_per_logit((1, 1), 4, regions) < kept_per_logit((1, 2), 4, regions)
