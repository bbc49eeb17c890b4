"""Size of a network's activations, the quantity by which nnU-Net's planners estimate GPU memory."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_COUNTED = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)


def compute_conv_feature_map_size(network: nn.Module, input_channels: int, input_size: Sequence[int]) -> int:
    """Count the elements that all convolutions and linear layers put out in one forward pass of one image.

    A copy of the network runs on PyTorch's meta device: shapes only, no numbers. nnU-Net's networks count their convolutions likewise.

    Args:
        network: the network; left as it is.
        input_channels: image channels.
        input_size: spatial size of the image.

    Returns:
        Number of elements.
    """
    elements = 0

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal elements
        elements += output.numel()

    shapes_only = copy.deepcopy(network).to("meta")
    for module in shapes_only.modules():
        if isinstance(module, _COUNTED):
            module.register_forward_hook(count)
    with torch.no_grad():
        shapes_only(torch.empty(1, input_channels, *(int(size) for size in input_size), device="meta"))
    return elements
