"""Channels last on the CPU: same values, for volumes alone, in every trainer of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from nnunet_ssl.training.cpu_layout import lay_channels_last
from nnunet_ssl.training.peers.cross_pseudo_supervision import CrossPseudoSupervisionTrainer
from nnunet_ssl.training.student import TransASPPStudentTrainer
from nnunet_ssl.training.teacher import TransASPPTeacherTrainer


def is_channels_last(weight: torch.Tensor) -> bool:
    return weight.is_contiguous(memory_format=torch.channels_last_3d) and not weight.is_contiguous()


def test_features_follow_the_weights_and_keep_their_values() -> None:
    images = torch.randn(2, 3, 8, 6, 4, generator=torch.Generator().manual_seed(0))
    network = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.LeakyReLU(), nn.Conv3d(4, 2, 3))
    plain = network(images)
    weights = [parameter.detach().clone() for parameter in network.parameters()]
    lay_channels_last(network)
    assert all(torch.equal(before, after) for before, after in zip(weights, network.parameters(), strict=True))
    assert is_channels_last(network[0].weight)
    assert is_channels_last(network[0](images))
    torch.testing.assert_close(network(images), plain)


def test_networks_on_slices_are_left_alone() -> None:
    network = nn.Conv2d(3, 4, 3)
    lay_channels_last(network)
    assert network.weight.is_contiguous()


@pytest.mark.parametrize("part", ["teacher", "student", "second"])
def test_trainers_lay_their_networks_so(tiny: Any, short: Callable[..., dict[str, Any]], part: str) -> None:
    if part == "teacher":
        trainer = tiny.trainer(TransASPPTeacherTrainer, "Dataset137_Tiny", settings=short())
    else:
        trainer = tiny.trainer(CrossPseudoSupervisionTrainer if part == "second" else TransASPPStudentTrainer, settings=short())
    trainer.initialize()
    network = trainer.second.network if part == "second" else trainer.network
    convolutions = [m.weight for m in network.modules() if isinstance(m, nn.Conv3d) and m.kernel_size != (1, 1, 1)]
    wide = [weight for weight in convolutions if weight.shape[1] > 1]  # with one channel both orders are the same
    assert wide
    assert all(is_channels_last(weight) for weight in wide)
