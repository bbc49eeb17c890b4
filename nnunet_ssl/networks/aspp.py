"""Atrous spatial pyramid pooling (Chen et al., DeepLabv3, 2017) whose branches fit the map they work on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from nnunet_ssl.errors import ConfigError
from nnunet_ssl.networks.conv_style import ConvStyle

Dilation = tuple[int, ...]
"""One branch's dilation on each axis; 0 means a kernel of one voxel on that axis."""


def clip_dilations(dilations: Iterable[int | Sequence[int]], map_size: Sequence[int]) -> tuple[Dilation, ...]:
    """Limit each branch's dilation to half the map's size on each axis, and drop branches that then equal an earlier one.

    A kernel of three voxels reaches as far as its dilation; within half the map's size every tap meets real voxels somewhere. An axis of
    size 1 gets 0: there a wider kernel would meet nothing but padding.

    Args:
        dilations: per branch one rate for all axes, or one per axis.
        map_size: size of the map, in voxels, per axis.

    Returns:
        The branches' dilations in the order given, duplicates dropped.

    Raises:
        ConfigError: if a branch has not one rate per axis, or a negative rate.
    """
    branches: list[Dilation] = []
    for branch in dilations:
        rates = (branch,) * len(map_size) if isinstance(branch, int) else tuple(int(rate) for rate in branch)
        if len(rates) != len(map_size) or min(rates) < 0:
            raise ConfigError(f"aspp_dilations has the entry {branch!r}; expected {len(map_size)} numbers of at least 0, one per axis.")
        clipped = tuple(min(rate, size // 2) for rate, size in zip(rates, map_size, strict=True))
        if clipped not in branches:
            branches.append(clipped)
    return tuple(branches)


class ASPP(nn.Module):
    """Parallel 1x1, dilated and image-level branches, joined by a 1x1 convolution.

    The image-level branch is a vector per image and has no norm: an instance norm refuses a single voxel. It is added *behind* the norm of
    the joined branches, where it acts as a bias: in front of it, being the same at each voxel, an instance norm would subtract it again.
    (Joining it by concatenation, as printed in the literature, is the same sum: a 1x1 convolution is linear.)
    """

    def __init__(self, *, channels: int, dilations: Sequence[Sequence[int]], style: ConvStyle) -> None:
        """Build the branches.

        Args:
            channels: channels of input and output.
            dilations: per dilated branch one rate per axis, fitting the map (see `clip_dilations`); 0 is a kernel of one voxel.
            style: the network's layer types.
        """
        super().__init__()
        width = branch_width(channels)
        self.dilations = tuple(tuple(int(rate) for rate in branch) for branch in dilations)
        dilated = (branch for branch in self.dilations if any(branch))  # all zeros is the 1x1 branch, which is always there
        self.branches = nn.ModuleList([style.conv_norm(channels, width, kernel_size=1, activate=True)])
        self.branches.extend(_dilated_conv(channels, width, branch, style) for branch in dilated)
        self.project = style.conv_norm(width * len(self.branches), channels, kernel_size=1, activate=False)
        self.image_level = nn.Sequential(nn.Linear(channels, width), style.activation(), nn.Linear(width, channels))
        self.nonlin = style.activation()

    def forward(self, x: Tensor) -> Tensor:
        """Gather context at several reaches.

        Args:
            x: deepest encoder features (B, C, *spatial).

        Returns:
            Features of the same shape.
        """
        joined = self.project(torch.cat([branch(x) for branch in self.branches], dim=1))
        image: Tensor = self.image_level(x.mean(dim=tuple(range(2, x.ndim))))  # (B, C)
        out: Tensor = self.nonlin(joined + image.reshape(*image.shape, *(1,) * (x.ndim - 2)))
        return out


def branch_width(channels: int) -> int:
    """Channels of one branch: a whole convolution of `channels` per branch would outweigh the encoder's deepest stage."""
    return max(8, channels // 4)


def _dilated_conv(channels: int, width: int, dilation: Dilation, style: ConvStyle) -> nn.Module:
    kernel = tuple(3 if rate else 1 for rate in dilation)
    conv = style.conv_op(channels, width, kernel, padding=dilation, dilation=tuple(max(1, rate) for rate in dilation), bias=style.conv_bias)
    return nn.Sequential(conv, style.norm(width), style.activation())
