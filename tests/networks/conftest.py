"""Small networks for the tests of nnunet_ssl.networks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from nnunet_ssl.networks import TransASPPUNet

SHAPES: dict[str, dict[str, Any]] = {
    "2d": {
        "patch": (24, 16),
        "features_per_stage": [8, 12, 16],
        "kernel_sizes": [[3, 3]] * 3,
        "strides": [[1, 1], [2, 2], [2, 2]],
    },
    "3d": {
        "patch": (16, 16, 8),
        "features_per_stage": [8, 16, 32],
        "kernel_sizes": [[3, 3, 3]] * 3,
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
    },
    "anisotropic": {
        "patch": (4, 32, 16),
        "features_per_stage": [8, 16, 24, 32],
        "kernel_sizes": [[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2]],
    },
    "two_stages": {
        "patch": (8, 8, 8),
        "features_per_stage": [8, 16],
        "kernel_sizes": [[3, 3, 3]] * 2,
        "strides": [[1, 1, 1], [2, 2, 2]],
    },
}


@pytest.fixture(autouse=True)
def _reproducible_on_one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def settings() -> Callable[..., dict[str, Any]]:
    """Constructor arguments of a TransASPPUNet of one of the named shapes."""

    def make(shape: str, **changes: Any) -> dict[str, Any]:
        geometry = {key: value for key, value in SHAPES[shape].items() if key != "patch"}
        stages, three_d = len(geometry["strides"]), len(geometry["strides"][0]) == 3
        return {
            "input_channels": 2,
            "num_classes": 3,
            "n_stages": stages,
            "n_blocks_per_stage": [1] * stages,
            "n_conv_per_stage_decoder": [1] * (stages - 1),
            "conv_op": nn.Conv3d if three_d else nn.Conv2d,
            "norm_op": nn.InstanceNorm3d if three_d else nn.InstanceNorm2d,
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": nn.LeakyReLU,
            "nonlin_kwargs": {"inplace": True},
            **geometry,
            **changes,
        }

    return make


@pytest.fixture
def build(settings) -> Callable[..., tuple[TransASPPUNet, torch.Tensor]]:
    """A network of one of the named shapes with a fitting batch of two images."""

    def make(shape: str, **changes: Any) -> tuple[TransASPPUNet, torch.Tensor]:
        return TransASPPUNet(**settings(shape, **changes)), torch.randn(2, 2, *SHAPES[shape]["patch"])

    return make
