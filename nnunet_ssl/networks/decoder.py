"""Decoder with attention gates, residual fusion, deep supervision and dropout in its coarser stages (paper Eq. 5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nnunet_ssl.networks.attention_gate import AttentionGate
from nnunet_ssl.networks.conv_style import ConvStyle
from nnunet_ssl.networks.sampling_dropout import SamplingDropout


class DecoderStage(nn.Module):
    """Upsampling, gated skip, concatenation and a residual block.

    A convolution of a concatenation is the sum of two convolutions, so this is Eq. 5. The residual connection runs from the upsampled
    features, which have the block's width already: it costs one addition, where a shortcut from the concatenation would need a convolution.
    """

    def __init__(
        self,
        *,
        below_channels: int,
        skip_channels: int,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        num_convs: int,
        dropout_rate: float,
        channelwise_dropout: bool,
        style: ConvStyle,
    ) -> None:
        """Build the stage.

        Args:
            below_channels: channels of the coarser features.
            skip_channels: channels of the skip, and of the output.
            kernel_size: kernel of the convolutions, one entry per axis.
            stride: ratio of the two grids, one entry per axis.
            num_convs: convolutions of the residual block, 1 or more.
            dropout_rate: dropout on the coarser features before they are used.
            channelwise_dropout: see `SamplingDropout`.
            style: the network's layer types.
        """
        super().__init__()
        self.dropout = SamplingDropout(rate=dropout_rate, channelwise=channelwise_dropout)
        self.upsample = style.transposed_conv(below_channels, skip_channels, stride=stride)
        self.gate = AttentionGate(skip_channels=skip_channels, below_channels=below_channels, stride=stride, style=style)
        convs = []
        for i in range(num_convs):
            in_channels = 2 * skip_channels if i == 0 else skip_channels
            convs.append(style.conv_norm(in_channels, skip_channels, kernel_size=kernel_size, activate=i < num_convs - 1))
        self.convs = nn.Sequential(*convs)
        self.nonlin = style.activation()

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """Bring coarser features to the skip's grid and fuse them with it.

        Args:
            below: decoder features (B, below_channels, *coarser).
            skip: encoder features (B, skip_channels, *spatial).

        Returns:
            Features of the skip's shape.
        """
        below = self.dropout(below)
        upsampled = self.upsample(below)
        fused = self.convs(torch.cat((upsampled, self.gate(skip, below)), dim=1))
        out: Tensor = self.nonlin(fused + upsampled)
        return out


class Decoder(nn.Module):
    """Decoder stages from coarse to fine, each with a head for deep supervision.

    Attributes:
        deep_supervision: whether `forward` returns all heads' logits; nnU-Net writes it. The heads exist in any case, so that weights fit.
    """

    def __init__(
        self,
        *,
        features_per_stage: Sequence[int],
        kernel_sizes: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
        num_classes: int,
        n_conv_per_stage: Sequence[int],
        deep_supervision: bool,
        dropout_rate: float,
        channelwise_dropout: bool,
        style: ConvStyle,
    ) -> None:
        """Build the decoder.

        Args:
            features_per_stage: the encoder's channels, finest first.
            kernel_sizes: the encoder's kernels, finest first.
            strides: the encoder's pooling, finest first.
            num_classes: channels of the logits: classes with background, or regions.
            n_conv_per_stage: convolutions per decoder stage, coarsest first, as nnU-Net orders them.
            deep_supervision: whether to return all resolutions.
            dropout_rate: dropout just before the decoder and on the inputs of its coarser half.
            channelwise_dropout: see `SamplingDropout`.
            style: the network's layer types.
        """
        super().__init__()
        self.deep_supervision = deep_supervision
        deepest = len(features_per_stage) - 1
        stages, heads = [], []
        for s, num_convs in enumerate(n_conv_per_stage):
            skip = deepest - 1 - s
            stages.append(
                DecoderStage(
                    below_channels=features_per_stage[skip + 1],
                    skip_channels=features_per_stage[skip],
                    kernel_size=kernel_sizes[skip],
                    stride=strides[skip + 1],
                    num_convs=num_convs,
                    dropout_rate=dropout_rate if s <= (deepest - 1) // 2 else 0.0,
                    channelwise_dropout=channelwise_dropout,
                    style=style,
                )
            )
            heads.append(style.conv_op(features_per_stage[skip], num_classes, 1))
        self.stages = nn.ModuleList(stages)
        self.seg_layers = nn.ModuleList(heads)  # nnU-Net's `-pretrained_weights` leaves out keys with ".seg_layers."

    def forward(self, skips: Sequence[Tensor], bottleneck: Tensor) -> Tensor | list[Tensor]:
        """Compute logits.

        Args:
            skips: encoder features of all stages but the deepest, finest first.
            bottleneck: features on the deepest grid.

        Returns:
            Logits (B, num_classes, *spatial), or with deep supervision a list of them, finest first.
        """
        outputs = self.stage_features(skips, bottleneck)
        if not self.deep_supervision:
            return self.logits(outputs[-1])
        return [head(x) for head, x in zip(reversed(self.seg_layers), reversed(outputs), strict=True)]

    def stage_features(self, skips: Sequence[Tensor], bottleneck: Tensor) -> list[Tensor]:
        """Features of every stage, coarsest first; arguments as in `forward`."""
        x = bottleneck
        outputs = []
        for stage, skip in zip(self.stages, reversed(skips), strict=True):
            x = stage(x, skip)
            outputs.append(x)
        return outputs

    def logits(self, finest: Tensor) -> Tensor:
        """Full-resolution logits (B, num_classes, *spatial) from the last stage's features."""
        out: Tensor = self.seg_layers[-1](finest)
        return out
