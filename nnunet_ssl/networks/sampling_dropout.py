"""Dropout that can be switched without touching training mode."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_ssl.errors import ConfigError


class SamplingDropout(nn.Module):
    """Dropout of whole channels or of single voxels that draws in training mode, and in any mode when told to.

    Attributes:
        sampling: True draws, False does not, whatever the mode; None follows `training`.
        generator: where the draws come from; None is PyTorch's default generator. Draws of a CPU generator are the same on every device.
    """

    def __init__(self, *, rate: float, channelwise: bool = True) -> None:
        """Set the rate.

        Args:
            rate: share of channels (voxels) that become 0; the others are divided by 1 - rate.
            channelwise: whether a channel is dropped as a whole. Single voxels hardly matter to the convolutions that follow.

        Raises:
            ConfigError: if the rate is not in [0, 1).
        """
        super().__init__()
        if not 0 <= rate < 1:
            raise ConfigError(f"decoder_dropout is {rate!r}; expected a number of at least 0 and less than 1.")
        self.rate = rate
        self.channelwise = channelwise
        self.sampling: bool | None = None
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Drop, or hand through.

        Args:
            x: features (B, C, *spatial).

        Returns:
            Features of the same shape.
        """
        active = self.training if self.sampling is None else self.sampling
        if not active or self.rate == 0:
            return x
        shape = (*x.shape[:2], *(1,) * (x.ndim - 2)) if self.channelwise else x.shape
        if self.generator is None:
            return x * functional.dropout(x.new_ones(shape), self.rate)
        keep = torch.rand(shape, generator=self.generator, device=self.generator.device) >= self.rate
        return x * (keep.to(x) / (1 - self.rate))

    def extra_repr(self) -> str:
        """Settings for `print(network)`."""
        return f"rate={self.rate}, channelwise={self.channelwise}"
