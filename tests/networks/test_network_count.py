"""The closed form against the network itself: weights exactly, kept activations as autograd counts them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from network_memory import kept_for_backward
from torch import nn

from nnunet_ssl.errors import ConfigError
from nnunet_ssl.networks import TransASPPUNet
from nnunet_ssl.networks.network_count import count_network

_SIX = {
    "n_stages": 6,
    "features_per_stage": [32, 64, 128, 256, 320, 320],
    "kernel_sizes": 3,
    "strides": [1, 2, 2, 2, 2, 2],
    "n_blocks_per_stage": 1,
    "n_conv_per_stage_decoder": 1,
}
CASES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "3d": ((32, 32, 16), {}),
    "2d": ((96, 64), {}),
    "thick slices": ((8, 64, 64), {"kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]], "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]]}),
    "deep encoder": ((32, 32, 32), {"n_blocks_per_stage": [1, 3, 4], "n_conv_per_stage_decoder": [2, 1]}),
    "wide": ((64, 64, 64), {"features_per_stage": [32, 64, 128]}),
    "bare": ((32, 32, 16), {"decoder_dropout": 0.0, "transformer_blocks": 0, "aspp_dilations": [[0, 0, 0]], "conv_bias": False}),
    "given once": ((32, 32, 16), {"kernel_sizes": 3, "strides": [1, 2, 2], "n_blocks_per_stage": 2, "n_conv_per_stage_decoder": 2}),
    "128": ((128, 128, 128), _SIX),
    "24 GB": ((160, 192, 160), _SIX),
    "residual encoder": ((128, 128, 128), _SIX | {"n_blocks_per_stage": [1, 3, 4, 6, 6, 6]}),
    "512": ((512, 512), _SIX | {"features_per_stage": [32, 64, 128, 256, 512, 512]}),
    "own heads": ((32, 32, 16), {"num_uncertainty_channels": 3, "transformer_blocks": 2, "squeeze_excitation_reduction": 4}),
}


def arguments(patch: tuple[int, ...], **changes: Any) -> dict[str, Any]:
    dim = len(patch)
    plain = {
        "n_stages": 3,
        "features_per_stage": [16, 32, 64],
        "conv_op": nn.Conv3d if dim == 3 else nn.Conv2d,
        "kernel_sizes": [[3] * dim] * 3,
        "strides": [[1] * dim, [2] * dim, [2] * dim],
        "n_blocks_per_stage": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True,
        "norm_op": nn.InstanceNorm3d if dim == 3 else nn.InstanceNorm2d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "aspp_dilations": [[1] * dim, [2] * dim],
        "decoder_dropout": 0.2,
        "deep_supervision": True,
    }
    return plain | changes


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[tuple[int, ...], dict[str, Any]]:
    patch, changes = CASES[request.param]
    return patch, arguments(patch, **changes)


def test_weights_are_counted_exactly(case: tuple[tuple[int, ...], dict[str, Any]]) -> None:
    patch, kwargs = case
    with torch.device("meta"):
        network = TransASPPUNet(input_channels=2, num_classes=5, **kwargs)
    count = count_network(kwargs, input_channels=2, num_classes=5, patch_size=patch)
    assert count.parameters == sum(p.numel() for p in network.parameters())


def test_kept_activations_are_those_of_autograd(case: tuple[tuple[int, ...], dict[str, Any]]) -> None:
    """Of a batch of two as on a GPU in mixed precision, which keeps the weights' copies in half precision as well."""
    patch, kwargs = case

    def make() -> nn.Module:
        return TransASPPUNet(input_channels=2, num_classes=5, **kwargs)

    kept = kept_for_backward(make, batch_size=2, channels=2, size=patch)
    count = count_network(kwargs, input_channels=2, num_classes=5, patch_size=patch)
    assert 2 * count.kept_bytes + 2 * count.parameters == pytest.approx(kept, rel=0.01)


def test_sizes_by_hand() -> None:
    count = count_network(arguments((32, 32, 16)), input_channels=2, num_classes=5, patch_size=(32, 32, 16))
    fine, middle, deep = 32 * 32 * 16, 16 * 16 * 8, 8 * 8 * 4
    assert count.finest_map_bytes == 2 * 16 * fine
    assert count.decoded_bytes == 2 * (16 * fine + 32 * middle)
    assert count.encoded_bytes == count.decoded_bytes + 2 * 64 * deep
    assert (count.voxels, count.supervised_voxels, count.num_classes) == (fine, fine + middle, 5)


def test_twice_the_patch_keeps_twice_the_bytes() -> None:
    small, large = (
        count_network(arguments((32, 32, 16)), input_channels=2, num_classes=5, patch_size=(n, 32, 16)).kept_bytes for n in (32, 64)
    )
    assert large == 2 * small  # attention too: no map of tokens by tokens


def test_full_precision_keeps_no_more_than_twice() -> None:
    patch = (32, 32, 16)
    half, full = (
        count_network(arguments(patch), input_channels=2, num_classes=5, patch_size=patch, element_bytes=n).kept_bytes for n in (2, 4)
    )
    assert 1.8 * half < full < 2 * half  # indices of pooling and inputs of layer norms are the same


def test_single_resolution_is_refused() -> None:
    kwargs = arguments((4, 4, 4), n_stages=1, features_per_stage=[16], strides=[[1, 1, 1]])
    with pytest.raises(ConfigError, match=r"a patch of \[4, 4, 4\] voxels has a single resolution"):
        count_network(kwargs, input_channels=1, num_classes=2, patch_size=(4, 4, 4))
