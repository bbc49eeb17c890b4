"""Additive attention gate on a skip connection (Oktay et al., "Attention U-Net", 2018)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from nnunet_ssl.networks.conv_style import ConvStyle

_INTERPOLATION = {2: "bilinear", 3: "trilinear"}


class AttentionGate(nn.Module):
    """Scales each voxel of a skip by sigmoid(psi(nonlin(W_x skip + W_g below))), between 0 and 1.

    The scores are computed on the coarser grid of the decoder's features, W_x being a convolution with kernel = stride, and are then
    interpolated to the skip's grid: at full resolution the gate would cost as much as the decoder's convolutions.
    """

    def __init__(self, *, skip_channels: int, below_channels: int, stride: Sequence[int], style: ConvStyle) -> None:
        """Build the gate.

        Args:
            skip_channels: channels of the encoder's skip.
            below_channels: channels of the decoder's features on the next coarser grid.
            stride: ratio of the two grids, one entry per axis.
            style: the network's layer types.
        """
        super().__init__()
        hidden = gate_width(skip_channels)
        self.skip_projection = style.conv_op(skip_channels, hidden, tuple(stride), stride=tuple(stride), bias=False)
        self.below_projection = style.conv_op(below_channels, hidden, 1)
        self.nonlin = style.activation()
        self.score = style.conv_op(hidden, 1, 1)
        self.interpolation = _INTERPOLATION[style.dim]

    def forward(self, skip: Tensor, below: Tensor) -> Tensor:
        """Gate the skip.

        Args:
            skip: encoder features (B, skip_channels, *spatial).
            below: decoder features (B, below_channels, *coarser).

        Returns:
            Features of the skip's shape.
        """
        score = self.score(self.nonlin(self.skip_projection(skip) + self.below_projection(below)))  # (B, 1, *coarser)
        gate = functional.interpolate(score.sigmoid(), size=skip.shape[2:], mode=self.interpolation, align_corners=False)
        # CUDA's mixed precision interpolates in float32, which the product and the concatenation behind it would take over
        return skip * gate.to(skip.dtype)


def gate_width(skip_channels: int) -> int:
    """Channels of the gate's hidden layer."""
    return max(1, skip_channels // 2)
