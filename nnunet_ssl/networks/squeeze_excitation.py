"""Squeeze-and-excitation (Hu et al., CVPR 2018) for any number of spatial axes."""

from __future__ import annotations

from torch import Tensor, nn

MIN_HIDDEN_CHANNELS = 4
"""A narrower bottleneck could not tell channels apart in networks with few features."""


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate in (0, 1) computed from the averages of all channels.

    The averages run over *all* spatial axes. (`SqueezeExcite` of dynamic_network_architectures averages over the first two only, which in
    3D leaves a gate per slice.) Behind an instance norm an average is that norm's bias and says nothing about the image, so this
    belongs behind a non-linearity; see `ResidualBlock`.
    """

    def __init__(self, *, channels: int, reduction: int = 8) -> None:
        """Build the gate.

        Args:
            channels: channels of the input.
            reduction: how many times narrower the hidden layer is; it never has less than 4 channels.
        """
        super().__init__()
        hidden = hidden_width(channels, reduction)
        self.gate = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels.

        Args:
            x: features (B, C, *spatial).

        Returns:
            Features of the same shape.
        """
        averages = x.mean(dim=tuple(range(2, x.ndim)))  # (B, C)
        gate: Tensor = self.gate(averages)
        return x * gate.reshape(*gate.shape, *(1,) * (x.ndim - 2))


def hidden_width(channels: int, reduction: int) -> int:
    """Channels of the gate's hidden layer."""
    return max(MIN_HIDDEN_CHANNELS, channels // reduction)
