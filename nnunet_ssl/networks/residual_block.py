"""The encoder's residual block."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from nnunet_ssl.networks.conv_style import ConvStyle
from nnunet_ssl.networks.squeeze_excitation import SqueezeExcitation


class ResidualBlock(nn.Module):
    """conv - norm - nonlin - squeeze-excitation - conv - norm, plus the shortcut, then nonlin (paper Eq. 3).

    The squeeze-excitation sits between the convolutions, as in EfficientNet's blocks: behind the last instance norm, its usual place, each
    channel's average is the norm's bias whatever the image, and the gate would be a constant. (`BasicBlockD` of
    dynamic_network_architectures has it there, and cannot be pickled.)
    """

    def __init__(self, *, in_channels: int, out_channels: int, kernel_size: Sequence[int], style: ConvStyle, reduction: int = 8) -> None:
        """Build the block.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the output; where they differ from the input's, the shortcut is a 1x1 convolution with norm.
            kernel_size: kernel of both convolutions, one entry per axis.
            style: the network's layer types.
            reduction: see `SqueezeExcitation`.
        """
        super().__init__()
        self.conv1 = style.conv_norm(in_channels, out_channels, kernel_size=kernel_size, activate=True)
        self.squeeze_excitation = SqueezeExcitation(channels=out_channels, reduction=reduction)
        self.conv2 = style.conv_norm(out_channels, out_channels, kernel_size=kernel_size, activate=False)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else style.conv_norm(in_channels, out_channels, kernel_size=1, activate=False)
        self.nonlin = style.activation()

    def forward(self, x: Tensor) -> Tensor:
        """Refine features.

        Args:
            x: features (B, in_channels, *spatial).

        Returns:
            Features (B, out_channels, *spatial).
        """
        branch = self.conv2(self.squeeze_excitation(self.conv1(x)))
        out: Tensor = self.nonlin(branch + self.shortcut(x))
        return out
