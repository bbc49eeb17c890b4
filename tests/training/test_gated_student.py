"""A student whose doubtful pseudo-labels are unlearned where a gate from held-out cases allows it, on voxels of two features."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import Tensor, nn

from nnunet_ssl.confidence.prediction_counts import count_predictions
from nnunet_ssl.confidence.thresholds import UnlearningGate, gate_at, unlearning_gate
from nnunet_ssl.config import StudentConfig
from nnunet_ssl.training.extra_channels import CODE_IGNORED, CODE_LABELLED, CODE_POOL
from nnunet_ssl.training.student_loss import DualLoss

CENTRES = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0], [2.2, -2.5]])
"""Features of the three classes, and of a fourth kind of voxel that the teacher takes for class 1."""
ODD = 3
ODD_SHARE = 0.2
"""Of the pool and of held-out cases; the labelled cases in training have none."""
TAU = 0.7


class Voxels(NamedTuple):
    """(B, 2, 16, 16) features; and per voxel, (B, 16, 16), its kind, the teacher's label, its confidence and the truth."""

    features: Tensor
    kinds: Tensor
    labels: Tensor
    confidence: Tensor
    truth: Tensor


def draw(num_samples: int, generator: torch.Generator, *, share_wrong: float, odd_share: float = ODD_SHARE) -> Voxels:
    """Samples whose odd voxels are class 1 to the teacher, with a confidence of 0.65, and background in truth with a probability."""
    shares = torch.tensor([0.4, 0.2, 0.2, odd_share])
    kinds = torch.multinomial(shares, num_samples * 256, replacement=True, generator=generator).view(num_samples, 16, 16)
    features = CENTRES[kinds].movedim(-1, 1) + 0.7 * torch.randn((num_samples, 2, 16, 16), generator=generator)
    is_odd = kinds == ODD
    labels = torch.where(is_odd, 1, kinds)
    is_wrong = is_odd & (torch.rand(kinds.shape, generator=generator) < share_wrong)
    return Voxels(features, kinds, labels, torch.where(is_odd, 0.65, 0.95), torch.where(is_wrong, 0, labels))


def held_out_gate(share_wrong: float) -> UnlearningGate:
    """The gate of six held-out cases of the same kind."""
    generator, everywhere = torch.Generator().manual_seed(5), np.ones((16, 16), dtype=bool)
    cases = {}
    for i in range(6):
        case = draw(1, generator, share_wrong=share_wrong)
        others = (1 - case.confidence[0]) / 2
        q = torch.stack([torch.where(case.labels[0] == k, case.confidence[0], others) for k in range(3)]).numpy()
        cases[f"case{i}"] = count_predictions(q, case.truth[0].numpy(), everywhere, everywhere, has_regions=False)
    return unlearning_gate(cases)


def warm_student() -> nn.Conv2d:
    """The teacher's weights: it is sure of what it labels."""
    student = nn.Conv2d(2, 3, 1)
    with torch.no_grad():
        student.weight.copy_(torch.tensor([[0.0, 0.0], [1.5, -0.3], [-0.3, 1.5]]).view(3, 2, 1, 1))
        student.bias.copy_(torch.tensor([2.2, 0.0, 0.0]))
    return student


def trained(gate: UnlearningGate | None, unlearning: str, *, share_wrong: float) -> nn.Conv2d:
    """A student after 300 steps on one labelled and one pool sample each; without a gate every doubtful label counts."""
    plain = DC_and_CE_loss({"batch_dice": False, "smooth": 1e-5, "ddp": False, "do_bg": False}, {}, dice_class=MemoryEfficientSoftDiceLoss)
    settings = {"targets": "hard", "tau": TAU, "normalisation": "separate", "unlearning_gradient_ratio": None}
    config = StudentConfig(unlearning=unlearning, **settings)  # type: ignore[arg-type]
    loss = DualLoss(supervised=plain, config=config, has_regions=False, num_outputs=3, batch_dice=False, is_distributed=False)
    student, generator = warm_student(), torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(student.parameters(), lr=0.02)
    for _ in range(300):
        labelled = draw(1, generator, share_wrong=share_wrong, odd_share=0.0)
        pool = draw(1, generator, share_wrong=share_wrong)
        counts = pool.confidence >= TAU
        counts |= True if gate is None else torch.from_numpy(gate_at(gate, pool.labels[0].numpy(), pool.confidence.numpy()))
        code = torch.cat([torch.full_like(labelled.labels, CODE_LABELLED), torch.where(counts, CODE_POOL, CODE_IGNORED)])
        confidence = torch.cat([torch.ones_like(labelled.confidence), pool.confidence])
        extra = torch.stack([code, (confidence * 10_000).round().long()], dim=1).to(torch.int16)
        target = torch.cat([labelled.truth, pool.labels]).unsqueeze(1)
        optimiser.zero_grad()
        loss(student(torch.cat([labelled.features, pool.features])), [target, extra]).backward()
        optimiser.step()
    return student


def accuracy(student: nn.Conv2d, *, share_wrong: float) -> tuple[float, float]:
    """Share of right voxels in unseen samples: of the odd kind, and of all."""
    unseen = draw(8, torch.Generator().manual_seed(99), share_wrong=share_wrong)
    right = student(unseen.features).argmax(1) == unseen.truth
    return float(right[unseen.kinds == ODD].float().mean()), float(right.float().mean())


def test_open_gate_brings_the_student_closer_to_the_truth() -> None:
    gate = held_out_gate(0.9)
    assert np.argwhere(gate).tolist() == [[1, 6]]
    off = accuracy(trained(gate, "off", share_wrong=0.9), share_wrong=0.9)
    unlearned = accuracy(trained(gate, "bounded", share_wrong=0.9), share_wrong=0.9)
    assert off[0] < 0.3
    assert unlearned[0] > off[0] + 0.2
    assert unlearned[1] > off[1] + 0.04


@pytest.mark.parametrize("unlearning", ["bounded", "negative"])
def test_shut_gate_is_no_unlearning(unlearning: str) -> None:
    gate = held_out_gate(0.1)
    assert not gate.any()
    off, shut, ungated = (
        trained(None, "off", share_wrong=0.1),
        trained(gate, unlearning, share_wrong=0.1),
        trained(None, unlearning, share_wrong=0.1),
    )
    assert torch.equal(off.weight, shut.weight)
    assert torch.equal(off.bias, shut.bias)
    # what the gate has kept away: right labels, unlearned
    assert accuracy(ungated, share_wrong=0.1)[0] < accuracy(shut, share_wrong=0.1)[0] - 0.2
