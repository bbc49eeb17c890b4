"""TransASPP-UNet (paper III.B.1): residual encoder, ASPP, transformer, gated decoder, logits and log-variance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any, NamedTuple

import torch
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn

from nnunet_ssl.errors import ConfigError
from nnunet_ssl.networks.aspp import ASPP
from nnunet_ssl.networks.conv_style import ConvStyle
from nnunet_ssl.networks.decoder import Decoder
from nnunet_ssl.networks.encoder import ResidualEncoder
from nnunet_ssl.networks.feature_map_size import compute_conv_feature_map_size
from nnunet_ssl.networks.per_stage import one_each, per_axis
from nnunet_ssl.networks.sampling_dropout import SamplingDropout
from nnunet_ssl.networks.transformer import TransformerBottleneck
from nnunet_ssl.networks.uncertainty_head import UncertaintyHead

DEFAULT_DECODER_DROPOUT = 0.2
"""Dropout rate where the plans name none."""
_TOKENS_PER_HEAD = 32
"""Width of an attention head that the default number of heads aims at."""


class EncodedFeatures(NamedTuple):
    """What `encode` leaves for `decode`; the same in every draw."""

    skips: tuple[Tensor, ...]
    """Encoder features of all stages but the deepest, finest first."""
    bottleneck: Tensor
    """Deepest features, behind ASPP and transformer."""


class TransASPPUNet(nn.Module):
    """The paper's backbone in 2D and 3D, built from the `architecture` block of nnU-Net's plans.

    `forward` is what nnU-Net's training and inference call. `encode` has no randomness in any mode; all dropout lies in `decode`, so that
    many stochastic samples share one encoder pass. No softmax or sigmoid is applied to the logits.
    """

    def __init__(
        self,
        *,
        input_channels: int,
        n_stages: int,
        features_per_stage: int | Sequence[int],
        conv_op: type[nn.Module],
        kernel_sizes: int | Sequence[int | Sequence[int]],
        strides: int | Sequence[int | Sequence[int]],
        n_blocks_per_stage: int | Sequence[int],
        num_classes: int,
        n_conv_per_stage_decoder: int | Sequence[int],
        conv_bias: bool = False,
        norm_op: type[nn.Module] | None = None,
        norm_op_kwargs: dict[str, Any] | None = None,
        dropout_op: type[nn.Module] | None = None,
        dropout_op_kwargs: dict[str, Any] | None = None,
        nonlin: type[nn.Module] | None = None,
        nonlin_kwargs: dict[str, Any] | None = None,
        deep_supervision: bool = False,
        aspp_dilations: Sequence[int | Sequence[int]] = (1, 2),
        attention_heads: int | None = None,
        transformer_blocks: int = 1,
        decoder_dropout: float | None = None,
        squeeze_excitation_reduction: int = 8,
        num_uncertainty_channels: int = 1,
    ) -> None:
        """Build the network; the names up to `deep_supervision` and their meaning are nnU-Net's.

        Args:
            input_channels: image channels.
            n_stages: resolutions, 2 or more.
            features_per_stage: channels of each stage, finest first.
            conv_op: `torch.nn.Conv2d` or `torch.nn.Conv3d`.
            kernel_sizes: kernel of each stage, one number or one per axis.
            strides: pooling in front of each stage, one number or one per axis.
            n_blocks_per_stage: residual blocks of each encoder stage.
            num_classes: channels of the logits: classes with background, or regions.
            n_conv_per_stage_decoder: convolutions in the residual block of each decoder stage, coarsest first.
            conv_bias: whether convolutions have a bias.
            norm_op: norm type, or None.
            norm_op_kwargs: its settings.
            dropout_op: kind of the decoder's dropout: `torch.nn.Dropout` drops single voxels, any other, or None, whole channels.
            dropout_op_kwargs: its `p` is the rate where `decoder_dropout` is None and a `dropout_op` is named.
            nonlin: non-linearity type.
            nonlin_kwargs: its settings.
            deep_supervision: whether `forward` returns logits at all resolutions but the lowest.
            aspp_dilations: dilated branches, each with one rate or one per axis (0: kernel of one voxel). The default fits the smallest
                deepest map nnU-Net plans, 4 voxels; `derive_architecture` fits them to the patch.
            attention_heads: heads of the transformer, a divisor of the deepest stage's features; None aims at 32 features per head.
            transformer_blocks: transformer blocks, 0 or more.
            decoder_dropout: dropout rate, in [0, 1); None: see `dropout_op_kwargs`, else 0.2.
            squeeze_excitation_reduction: how many times narrower the squeeze-excitation's hidden layer is.
            num_uncertainty_channels: channels of the log-variance: 1, or one per region.

        Raises:
            ConfigError: if lengths do not fit `n_stages` or the number of axes, or a value is out of range.
        """
        super().__init__()
        style = ConvStyle(
            conv_op=conv_op,
            conv_bias=conv_bias,
            norm_op=norm_op,
            norm_op_kwargs=norm_op_kwargs or {},
            nonlin=nonlin,
            nonlin_kwargs=nonlin_kwargs or {},
        )
        if n_stages < 2:
            raise ConfigError(f"n_stages is {n_stages}; TransASPPUNet needs 2 or more (plan with a larger patch, or use a stock network).")
        features = one_each(features_per_stage, n_stages, "features_per_stage")
        kernels = [per_axis(k, style.dim, "kernel_sizes") for k in one_each(kernel_sizes, n_stages, "kernel_sizes")]
        pooling = [per_axis(s, style.dim, "strides") for s in one_each(strides, n_stages, "strides")]
        deepest = features[-1]
        self.input_channels = input_channels
        self.divisor = tuple(prod(axis) for axis in zip(*pooling, strict=True))
        self.decoder_dropout = _dropout_rate(decoder_dropout, dropout_op, dropout_op_kwargs)
        self.encoder = ResidualEncoder(
            input_channels=input_channels,
            features_per_stage=features,
            kernel_sizes=kernels,
            strides=pooling,
            n_blocks_per_stage=one_each(n_blocks_per_stage, n_stages, "n_blocks_per_stage"),
            style=style,
            reduction=squeeze_excitation_reduction,
        )
        self.aspp = ASPP(
            channels=deepest, dilations=[per_axis(branch, style.dim, "aspp_dilations") for branch in aspp_dilations], style=style
        )
        heads = default_attention_heads(deepest) if attention_heads is None else attention_heads
        self.transformer = TransformerBottleneck(channels=deepest, heads=heads, num_blocks=transformer_blocks, conv_op=conv_op)
        self.decoder = Decoder(
            features_per_stage=features,
            kernel_sizes=kernels,
            strides=pooling,
            num_classes=num_classes,
            n_conv_per_stage=one_each(n_conv_per_stage_decoder, n_stages - 1, "n_conv_per_stage_decoder"),
            deep_supervision=deep_supervision,
            dropout_rate=self.decoder_dropout,
            channelwise_dropout=dropout_op is not nn.Dropout,
            style=style,
        )
        self.uncertainty_head = UncertaintyHead(
            feature_channels=features[0],
            num_classes=num_classes,
            kernel_size=kernels[0],
            num_channels=num_uncertainty_channels,
            style=style,
        )

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Compute logits.

        Args:
            x: image (B, input_channels, *spatial); each axis a multiple of `divisor`.

        Returns:
            Logits (B, num_classes, *spatial); with deep supervision a list of `n_stages` - 1 of them, finest first.

        Raises:
            ValueError: if an axis is no multiple of `divisor`.
        """
        return self.decode(self.encode(x))

    def encode(self, x: Tensor) -> EncodedFeatures:
        """Run encoder, ASPP and transformer, deterministic in every mode; argument and error as in `forward`."""
        if any(size % divisor for size, divisor in zip(x.shape[2:], self.divisor, strict=True)):
            raise ValueError(f"image of size {tuple(x.shape[2:])}: every axis must be a multiple of {self.divisor}, the network's pooling.")
        *skips, deepest = self.encoder(x)
        return EncodedFeatures(tuple(skips), self.transformer(self.aspp(deepest)))

    def decode(self, features: EncodedFeatures) -> Tensor | list[Tensor]:
        """Run the decoder, with dropout in training mode or within `sampling`; returns what `forward` does."""
        logits: Tensor | list[Tensor] = self.decoder(features.skips, features.bottleneck)
        return logits

    def decode_with_uncertainty(self, features: EncodedFeatures, *, detach: bool = True) -> tuple[Tensor, Tensor]:
        """Run the decoder and the uncertainty head, at full resolution only.

        Args:
            features: what `encode` returned.
            detach: keep the gradient of the log-variance from everything but the head.

        Returns:
            Logits (B, num_classes, *spatial), and log-variance (B, num_uncertainty_channels, *spatial) in [log 1e-4, log 1/4].
        """
        finest = self.decoder.stage_features(features.skips, features.bottleneck)[-1]
        logits = self.decoder.logits(finest)
        inputs = (finest.detach(), logits.detach()) if detach else (finest, logits)
        log_variance: Tensor = self.uncertainty_head(*inputs)
        return logits, log_variance

    @contextmanager
    def sampling(self, active: bool = True, *, generator: torch.Generator | None = None) -> Iterator[None]:
        """Switch the decoder's dropout on (or off) irrespective of training mode; what held before is restored at the end.

        Args:
            active: on or off.
            generator: source of the draws; None is PyTorch's default generator.
        """
        dropouts = [module for module in self.decoder.modules() if isinstance(module, SamplingDropout)]
        before = [(dropout.sampling, dropout.generator) for dropout in dropouts]
        try:
            for dropout in dropouts:
                dropout.sampling, dropout.generator = active, generator
            yield
        finally:
            for dropout, (was_active, had_generator) in zip(dropouts, before, strict=True):
                dropout.sampling, dropout.generator = was_active, had_generator

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Elements all layers of `forward` put out for one image of this spatial size; nnU-Net's planners estimate memory by it."""
        return compute_conv_feature_map_size(self, self.input_channels, input_size)

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """He initialisation as in nnU-Net's networks, for `network.apply`, which visits a module after its layers.

        Residual blocks start at full strength: with the last norm's scale at zero, as in nnU-Net's residual encoder, short trainings stay
        behind (on 8 Hippocampus labels, 1000 steps, by 3 points of Dice).
        """
        InitWeights_He(1e-2)(module)
        if isinstance(module, UncertaintyHead):
            module.reset_output()


def default_attention_heads(features: int) -> int:
    """The largest number of heads that divides the features and leaves each head at least 32 of them; at least 1."""
    return max((heads for heads in range(1, features // _TOKENS_PER_HEAD + 1) if features % heads == 0), default=1)


def _dropout_rate(rate: float | None, dropout_op: type[nn.Module] | None, kwargs: dict[str, Any] | None) -> float:
    if rate is None and dropout_op is not None:
        rate = (kwargs or {}).get("p")
    return DEFAULT_DECODER_DROPOUT if rate is None else rate
