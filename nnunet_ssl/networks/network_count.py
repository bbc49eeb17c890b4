"""What a TransASPPUNet weighs and keeps for the backward pass, in closed form: planners ask for hundreds of patch sizes.

Counted are whole tensors in the order of the forward pass: the inputs of convolutions and linear layers, what norms and in-place
activations keep, and the indices of max pooling. Left out is what has no spatial extent, such as the squeeze-excitation's vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from nnunet_ssl.errors import ConfigError
from nnunet_ssl.networks.aspp import branch_width
from nnunet_ssl.networks.attention_gate import gate_width
from nnunet_ssl.networks.per_stage import one_each, per_axis
from nnunet_ssl.networks.squeeze_excitation import hidden_width
from nnunet_ssl.networks.transformer import EXPANSION
from nnunet_ssl.networks.uncertainty_head import head_width

_FLOAT, _INDEX = 4, 8
"""Bytes of what mixed precision leaves in float32, and of an index of max pooling."""


@dataclass(frozen=True, kw_only=True)
class NetworkCount:
    """Sizes of a network at one patch size; bytes are those of one image."""

    parameters: int
    kept_bytes: int
    """Activations of `forward` that the backward pass needs, the loss's own aside."""
    encoded_bytes: int
    """What `encode` leaves for `decode`: every decoder pass of a window shares it."""
    decoded_bytes: int
    """Features of all decoder stages, which one pass of `decode` holds."""
    finest_map_bytes: int
    """One map of the finest stage's width, in the network's precision."""
    num_classes: int
    voxels: int
    """Voxels of the patch."""
    supervised_voxels: int
    """Voxels of all logits under deep supervision."""


def count_network(
    arch_kwargs: Mapping[str, Any], *, input_channels: int, num_classes: int, patch_size: Sequence[int], element_bytes: int = 2
) -> NetworkCount:
    """Count weights and activations from the plans' `arch_kwargs` alone; nothing is built.

    Attention is counted as `scaled_dot_product_attention` runs on GPUs, without a map of tokens by tokens.

    Args:
        arch_kwargs: the constructor's arguments as `derive_architecture` writes them.
        input_channels: image channels.
        num_classes: channels of the logits.
        patch_size: patch size in voxels, per axis.
        element_bytes: 2 for mixed precision, 4 without.

    Raises:
        ConfigError: if the network would have a single resolution.
    """
    return _Count(dict(arch_kwargs), input_channels, num_classes, [int(size) for size in patch_size], element_bytes).result()


class _Count:
    """Goes through the network as `forward` does and adds up parameters and kept bytes."""

    def __init__(self, arch: dict[str, Any], input_channels: int, num_classes: int, patch: list[int], element_bytes: int) -> None:
        stages, self.dim = int(arch["n_stages"]), len(patch)
        if stages < 2:
            raise ConfigError(f"a patch of {patch} voxels has a single resolution; TransASPPUNet needs two or more.")
        self.arch, self.input_channels, self.num_classes, self.half = arch, input_channels, num_classes, element_bytes
        self.features = one_each(arch["features_per_stage"], stages, "features_per_stage")
        self.kernels = [prod(per_axis(k, self.dim, "kernel_sizes")) for k in one_each(arch["kernel_sizes"], stages, "kernel_sizes")]
        self.pooling = [prod(per_axis(s, self.dim, "strides")) for s in one_each(arch["strides"], stages, "strides")]
        self.voxels = [prod(patch) // prod(self.pooling[: stage + 1]) for stage in range(stages)]
        self.has_norm = arch.get("norm_op") is not None
        self.parameters = self.kept = 0

    def result(self) -> NetworkCount:
        self._encoder()
        self._aspp()
        self._transformer()
        self._decoder()
        self._uncertainty_head()
        skips = sum(c * v for c, v in zip(self.features[:-1], self.voxels[:-1], strict=True)) * self.half
        return NetworkCount(
            parameters=self.parameters,
            kept_bytes=self.kept,
            encoded_bytes=skips + self.features[-1] * self.voxels[-1] * self.half,
            decoded_bytes=skips,
            finest_map_bytes=self.features[0] * self.voxels[0] * self.half,
            num_classes=self.num_classes,
            voxels=self.voxels[0],
            supervised_voxels=sum(self.voxels[:-1]),
        )

    def _keep(self, elements: int, element_bytes: int | None = None) -> None:
        self.kept += elements * (self.half if element_bytes is None else element_bytes)

    def _conv(self, inputs: int, outputs: int, kernel: int, *, bias: bool | None = None) -> None:
        has_bias = bool(self.arch.get("conv_bias", False)) if bias is None else bias
        self.parameters += inputs * outputs * kernel + (outputs if has_bias else 0)

    def _linear(self, inputs: int, outputs: int) -> None:
        self._conv(inputs, outputs, 1, bias=True)

    def _conv_norm(self, inputs: int, outputs: int, kernel: int, voxels: int, *, activate: bool) -> None:
        """The norm keeps the convolution's output, the in-place activation its own; the input was kept by what put it out."""
        self._conv(inputs, outputs, kernel)
        if self.has_norm:
            self.parameters += 2 * outputs
            self._keep(outputs * voxels)
        if activate:
            self._keep(outputs * voxels)

    def _encoder(self) -> None:
        self._keep(self.input_channels * self.voxels[0])
        self._conv_norm(self.input_channels, self.features[0], self.kernels[0], self.voxels[0], activate=True)
        channels = self.features[0]
        blocks = one_each(self.arch["n_blocks_per_stage"], len(self.features), "n_blocks_per_stage")
        for stage, (features, num_blocks) in enumerate(zip(self.features, blocks, strict=True)):
            if self.pooling[stage] > 1:
                self._keep(channels * self.voxels[stage])
                self._keep(channels * self.voxels[stage], _INDEX)
            for _ in range(num_blocks):
                self._residual_block(channels, features, stage)
                channels = features

    def _residual_block(self, inputs: int, outputs: int, stage: int) -> None:
        voxels, hidden = self.voxels[stage], hidden_width(outputs, int(self.arch.get("squeeze_excitation_reduction", 8)))
        self._conv_norm(inputs, outputs, self.kernels[stage], voxels, activate=True)
        self._linear(outputs, hidden)
        self._linear(hidden, outputs)
        self._keep(outputs * voxels)  # what squeeze-excitation has scaled
        self._conv_norm(outputs, outputs, self.kernels[stage], voxels, activate=False)
        if inputs != outputs:
            self._conv_norm(inputs, outputs, 1, voxels, activate=False)
        self._keep(outputs * voxels)  # the sum, activated in place

    def _aspp(self) -> None:
        channels, voxels, width = self.features[-1], self.voxels[-1], branch_width(self.features[-1])
        self._conv_norm(channels, width, 1, voxels, activate=True)
        dilations = [per_axis(branch, self.dim, "aspp_dilations") for branch in self.arch["aspp_dilations"]]
        dilated = [branch for branch in dilations if any(branch)]
        for branch in dilated:
            self._conv_norm(channels, width, prod(3 if rate else 1 for rate in branch), voxels, activate=True)
        joined = width * (1 + len(dilated))
        self._keep(joined * voxels)
        self._conv_norm(joined, channels, 1, voxels, activate=False)
        self._linear(channels, width)
        self._linear(width, channels)
        self._keep(channels * voxels)

    def _transformer(self) -> None:
        channels, tokens = self.features[-1], self.voxels[-1]
        self.parameters += channels * 3**self.dim + channels  # positions, channel by channel
        for _ in range(int(self.arch.get("transformer_blocks", 1))):
            self.parameters += 4 * channels  # two norms
            self._conv(channels, 3 * channels, 1, bias=False)
            self._linear(channels, channels)
            self._linear(channels, EXPANSION * channels)
            self._linear(EXPANSION * channels, channels)
            self._keep(2 * channels * tokens, _FLOAT)  # inputs of the norms
            # outputs of the norms; query, key and value; what was attended to, twice; the hidden layer before and behind its activation
            self._keep((2 + 3 + 2 + 2 * EXPANSION) * channels * tokens)

    def _decoder(self) -> None:
        deepest = len(self.features) - 1
        convs = one_each(self.arch["n_conv_per_stage_decoder"], deepest, "n_conv_per_stage_decoder")
        for s, num_convs in enumerate(convs):
            stage = deepest - 1 - s
            below, outputs, coarse, fine = self.features[stage + 1], self.features[stage], self.voxels[stage + 1], self.voxels[stage]
            if s == 0 or (self.arch.get("decoder_dropout") and s <= (deepest - 1) // 2):
                self._keep(below * coarse)  # behind the dropout; what comes before it at the deepest stage is kept by nobody
            self._conv(below, outputs, self.pooling[stage + 1])
            self._gate(outputs, below, coarse, fine, self.pooling[stage + 1])
            self._keep(2 * outputs * fine)
            for i in range(num_convs):
                inputs = 2 * outputs if i == 0 else outputs
                self._conv_norm(inputs, outputs, self.kernels[stage], fine, activate=i < num_convs - 1)
            self._keep(outputs * fine)
            self._linear(outputs, self.num_classes)

    def _gate(self, skip: int, below: int, coarse: int, fine: int, stride: int) -> None:
        hidden = gate_width(skip)
        self._conv(skip, hidden, stride, bias=False)
        self._linear(below, hidden)
        self._linear(hidden, 1)
        self._keep((hidden + 1) * coarse + fine)

    def _uncertainty_head(self) -> None:
        """Weights alone: `forward` leaves the head out."""
        hidden, channels = head_width(self.features[0]), int(self.arch.get("num_uncertainty_channels", 1))
        self._linear(self.features[0] + self.num_classes, hidden)
        self._linear(hidden, hidden)
        self._conv(hidden, channels, self.kernels[0], bias=True)
