"""Size of a network's activations, the quantity by which nnU-Net's planners estimate GPU memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

_COUNTED = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)


def compute_conv_feature_map_size(network: nn.Module, input_channels: int, input_size: Sequence[int]) -> int:
    """Count the elements that all convolutions and linear layers put out in one forward pass of one image.

    The pass runs on PyTorch's meta device: shapes only, no numbers. nnU-Net's networks count their convolutions likewise.

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

    weights = {name: tensor.to("meta") for name, tensor in (*network.named_parameters(), *network.named_buffers())}
    hooks = [module.register_forward_hook(count) for module in network.modules() if isinstance(module, _COUNTED)]
    try:
        with torch.no_grad():
            functional_call(network, weights, (torch.empty(1, input_channels, *input_size, device="meta"),))
    finally:
        for hook in hooks:
            hook.remove()
    return elements
