"""What a network says of images that another one is held against; nobody learns through it."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn


@torch.no_grad()
def reference_logits(network: nn.Module, images: Tensor) -> Tensor:
    """Logits at full resolution, without gradient.

    Args:
        network: in the mode that it is to predict in; a wrapper for several processes is left out, since it would wait for the others.
        images: (P, C, *spatial), on the network's device.

    Returns:
        (P, H, *spatial).
    """
    inner = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
    # as nnU-Net does: mixed precision on CUDA devices alone
    with torch.autocast("cuda") if images.device.type == "cuda" else nullcontext():
        output = inner(images)
    logits: Tensor = output if isinstance(output, Tensor) else output[0]
    return logits


def probabilities(logits: Tensor, *, has_regions: bool) -> Tensor:
    """Softmax, or for regions sigmoid, in float32; shaped as the logits (B, H, *spatial)."""
    return logits.float().sigmoid() if has_regions else logits.float().softmax(1)
