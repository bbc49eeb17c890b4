"""Residual encoder with max pooling and squeeze-excitation."""

from __future__ import annotations

from collections.abc import Sequence

from dynamic_network_architectures.building_blocks.helper import get_matching_pool_op
from torch import Tensor, nn

from nnunet_ssl.networks.conv_style import ConvStyle
from nnunet_ssl.networks.residual_block import ResidualBlock


class ResidualEncoder(nn.Module):
    """Stem, then per stage: max pooling by the stage's stride, then residual blocks (paper Eq. 3)."""

    def __init__(
        self,
        *,
        input_channels: int,
        features_per_stage: Sequence[int],
        kernel_sizes: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
        n_blocks_per_stage: Sequence[int],
        style: ConvStyle,
        reduction: int = 8,
    ) -> None:
        """Build the encoder.

        Args:
            input_channels: image channels.
            features_per_stage: channels of each stage.
            kernel_sizes: kernel of each stage, one entry per axis.
            strides: pooling in front of each stage, one entry per axis; the first is all ones in nnU-Net's plans.
            n_blocks_per_stage: residual blocks of each stage.
            style: the network's layer types.
            reduction: see `SqueezeExcitation`.
        """
        super().__init__()
        self.stem = style.conv_norm(input_channels, features_per_stage[0], kernel_size=kernel_sizes[0], activate=True)
        stages = []
        channels = features_per_stage[0]
        for features, kernel, stride, n_blocks in zip(features_per_stage, kernel_sizes, strides, n_blocks_per_stage, strict=True):
            stage = nn.Sequential()
            if any(s > 1 for s in stride):
                stage.append(get_matching_pool_op(style.conv_op, pool_type="max")(tuple(stride)))
            for _ in range(n_blocks):
                block = ResidualBlock(in_channels=channels, out_channels=features, kernel_size=kernel, style=style, reduction=reduction)
                stage.append(block)
                channels = features
            stages.append(stage)
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the features of every stage.

        Args:
            x: image (B, input_channels, *spatial); each axis a multiple of its pooling.

        Returns:
            One tensor per stage, finest first; the last is the deepest.
        """
        x = self.stem(x)
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs
