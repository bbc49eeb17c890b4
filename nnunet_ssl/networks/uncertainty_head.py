"""The head for the log-variance map U = log sigma^2 (paper III.B)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nnunet_ssl.networks.conv_style import ConvStyle

MIN_LOG_VARIANCE = math.log(1e-4)
"""Below this no sample count in use could tell a variance from zero."""
MAX_LOG_VARIANCE = math.log(1 / 4)
"""No probability varies more: it lies in [0, 1]."""
INITIAL_LOG_VARIANCE = math.log(0.01)
"""Output at the start of training, about the middle of the range."""


class UncertaintyHead(nn.Module):
    """Predicts log-variance from the decoder's finest features and the logits.

    The logits are among the inputs because the variance of a probability is bound to the probability itself, roughly p (1 - p).

    The range is kept by a scaled sigmoid, not by clamping: with the loss v exp(-U) + U the many voxels that never vary pull U below the
    lower limit, where a clamp has no gradient, and a voxel that was pushed there with them could not come back. The sigmoid's gradient
    fades but never ends, and at the initial value it is nearly the largest it can be.
    """

    def __init__(self, *, feature_channels: int, num_classes: int, kernel_size: Sequence[int], num_channels: int, style: ConvStyle) -> None:
        """Build the head.

        Args:
            feature_channels: channels of the decoder's finest features.
            num_classes: channels of the logits.
            kernel_size: kernel of the last convolution, one entry per axis.
            num_channels: channels of the output: 1, or one per region.
            style: the network's layer types.
        """
        super().__init__()
        hidden = head_width(feature_channels)
        # The name keeps this head out of nnU-Net's `-pretrained_weights` (see `Decoder`): its shapes depend on the number of classes, and
        # the variance it has learnt is that of segmentation heads which are left out as well.
        self.seg_layers = nn.ModuleList(
            [
                style.conv_op(feature_channels + num_classes, hidden, 1),
                style.conv_op(hidden, hidden, 1),
                style.conv_op(hidden, num_channels, tuple(kernel_size), padding=tuple(k // 2 for k in kernel_size)),
            ]
        )
        self.nonlin = nn.LeakyReLU(0.01)
        self.reset_output()

    def reset_output(self) -> None:
        """Start near `INITIAL_LOG_VARIANCE` everywhere; small weights, not zeros, so that gradients reach the first layers."""
        share = (INITIAL_LOG_VARIANCE - MIN_LOG_VARIANCE) / (MAX_LOG_VARIANCE - MIN_LOG_VARIANCE)
        weight, bias = self.seg_layers[-1].parameters()
        nn.init.normal_(weight, std=1e-3)
        nn.init.constant_(bias, math.log(share / (1 - share)))

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        """Predict log-variance.

        Args:
            features: the decoder's finest features (B, C, *spatial).
            logits: logits (B, num_classes, *spatial).

        Returns:
            Log-variance (B, num_channels, *spatial) in [log 1e-4, log 1/4], float32.
        """
        x = torch.cat((features, logits), dim=1)
        for layer in self.seg_layers[:-1]:
            x = self.nonlin(layer(x))
        share: Tensor = self.seg_layers[-1](x).float().sigmoid()
        return MIN_LOG_VARIANCE + (MAX_LOG_VARIANCE - MIN_LOG_VARIANCE) * share


def head_width(feature_channels: int) -> int:
    """Channels of the head's hidden layers."""
    return max(8, feature_channels // 2)
