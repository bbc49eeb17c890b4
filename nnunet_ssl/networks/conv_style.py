"""The layer types and their settings that every block of one network shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dynamic_network_architectures.building_blocks.helper import convert_conv_op_to_dim, get_matching_convtransp
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU
from torch import nn


@dataclass(frozen=True, kw_only=True)
class ConvStyle:
    """How this network convolves, normalises and activates, as nnU-Net's plans say it."""

    conv_op: type[nn.Module]
    """`torch.nn.Conv2d` or `torch.nn.Conv3d`."""
    conv_bias: bool = False
    """Whether the convolutions in front of norms, and the upsampling ones, have a bias."""
    norm_op: type[nn.Module] | None = None
    """Norm type, or None for no norm."""
    norm_op_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the norm."""
    nonlin: type[nn.Module] | None = None
    """Non-linearity type, or None for none."""
    nonlin_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the non-linearity."""

    @property
    def dim(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return int(convert_conv_op_to_dim(self.conv_op))

    def conv_norm(self, in_channels: int, out_channels: int, *, kernel_size: int | Sequence[int], activate: bool) -> nn.Module:
        """Convolution of stride 1 that keeps the size, then the norm and, if asked for, the non-linearity."""
        nonlin = self.nonlin if activate else None
        block: nn.Module = ConvDropoutNormReLU(
            self.conv_op, in_channels, out_channels, kernel_size, 1, self.conv_bias, self.norm_op, dict(self.norm_op_kwargs),
            None, None, nonlin, dict(self.nonlin_kwargs),
        )  # fmt: skip
        return block

    def norm(self, channels: int) -> nn.Module:
        """The norm alone."""
        return nn.Identity() if self.norm_op is None else self.norm_op(channels, **self.norm_op_kwargs)

    def activation(self) -> nn.Module:
        """The non-linearity alone."""
        return nn.Identity() if self.nonlin is None else self.nonlin(**self.nonlin_kwargs)

    def transposed_conv(self, in_channels: int, out_channels: int, *, stride: Sequence[int]) -> nn.Module:
        """Transposed convolution whose kernel is its stride: every output voxel comes from exactly one input voxel."""
        op: nn.Module = get_matching_convtransp(self.conv_op)(in_channels, out_channels, tuple(stride), tuple(stride), bias=self.conv_bias)
        return op
