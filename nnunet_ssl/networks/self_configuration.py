"""TransASPPUNet's settings, derived from the architecture nnU-Net planned."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from nnunet_ssl.errors import ConfigError
from nnunet_ssl.networks.aspp import clip_dilations
from nnunet_ssl.networks.trans_aspp_unet import DEFAULT_DECODER_DROPOUT, default_attention_heads

NETWORK_CLASS_NAME = "nnunet_ssl.networks.trans_aspp_unet.TransASPPUNet"
ASPP_RATES = (1, 2, 3)
"""Dilations before they are fitted to the deepest map."""

_SHARED = (
    "n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", "conv_bias", "norm_op", "norm_op_kwargs", "dropout_op",
    "dropout_op_kwargs", "nonlin", "nonlin_kwargs", "deep_supervision",
)  # fmt: skip
_SOURCES = {
    "PlainConvUNet": (*_SHARED, "n_conv_per_stage", "n_conv_per_stage_decoder"),
    "ResidualEncoderUNet": (*_SHARED, "n_blocks_per_stage", "n_conv_per_stage_decoder"),
    "TransASPPUNet": (
        *_SHARED, "n_blocks_per_stage", "n_conv_per_stage_decoder", "aspp_dilations", "attention_heads", "transformer_blocks",
        "decoder_dropout", "squeeze_excitation_reduction", "num_uncertainty_channels",
    ),
}  # fmt: skip
_IMPORTED = ("conv_op", "norm_op", "dropout_op", "nonlin")
_OPTIONAL = (*_SHARED[5:], *_SOURCES["TransASPPUNet"][-6:])


def derive_architecture(architecture: dict[str, Any], patch_size: Sequence[int]) -> dict[str, Any]:
    """Make the plans' `architecture` block for TransASPPUNet.

    Stages, widths, kernels, strides, norm and non-linearity stay as planned. Two convolutions of a PlainConvUNet stage become one residual
    block in the encoder, and one convolution in the decoder, whose residual fusion makes up for the other: the number of convolutions at
    full resolution, and with it the time of a step, stays what it was. The ASPP's dilations are fitted to the deepest map of this patch.

    Args:
        architecture: the block of PlainConvUNet, ResidualEncoderUNet or TransASPPUNet, with `network_class_name`, `arch_kwargs` and
            `_kw_requires_import`; left as it is. Of a TransASPPUNet every setting is kept, and its dilations are fitted.
        patch_size: patch size in voxels, per axis of the network.

    Returns:
        A block of the same form, of JSON types only. Deriving from it again with the same patch returns its equal.

    Raises:
        ConfigError: if the architecture is another, or has a setting that TransASPPUNet cannot honour.
    """
    kwargs = _plain(architecture.get("arch_kwargs", {}))
    source = _source(architecture, kwargs)
    if source == "PlainConvUNet":
        kwargs["n_blocks_per_stage"] = _halved(kwargs.pop("n_conv_per_stage"))
        kwargs["n_conv_per_stage_decoder"] = _halved(kwargs["n_conv_per_stage_decoder"])
    kwargs["aspp_dilations"] = _plain(clip_dilations(kwargs.get("aspp_dilations", ASPP_RATES), _deepest_map(kwargs, patch_size)))
    if kwargs.get("attention_heads") is None:
        kwargs["attention_heads"] = default_attention_heads(_last(kwargs["features_per_stage"]))
    if kwargs.get("decoder_dropout") is None:
        planned = (kwargs.get("dropout_op_kwargs") or {}).get("p") if kwargs.get("dropout_op") else None
        kwargs["decoder_dropout"] = DEFAULT_DECODER_DROPOUT if planned is None else planned
    return {
        "network_class_name": NETWORK_CLASS_NAME,
        "arch_kwargs": kwargs,
        "_kw_requires_import": [name for name in _IMPORTED if name in kwargs],
    }


def _source(architecture: dict[str, Any], kwargs: dict[str, Any]) -> str:
    name = str(architecture.get("network_class_name"))
    source = name.rpartition(".")[2]  # nnU-Net too finds a class that has moved by its last name
    if source not in _SOURCES:
        raise ConfigError(f"TransASPPUNet cannot be derived from the plans' network {name!r}; known: {', '.join(_SOURCES)}.")
    if missing := [key for key in _SOURCES[source] if key not in kwargs and key not in _OPTIONAL]:
        raise ConfigError(f"the plans' arch_kwargs of {source} lack {missing[0]!r}.")
    if unknown := sorted(key for key in set(kwargs) - set(_SOURCES[source]) if kwargs[key] not in (None, False)):
        raise ConfigError(f"TransASPPUNet has no setting {unknown[0]!r}, which the plans give {source}: {kwargs[unknown[0]]!r}.")
    for key in set(kwargs) - set(_SOURCES[source]):
        del kwargs[key]
    return source


def _deepest_map(kwargs: dict[str, Any], patch_size: Sequence[int]) -> tuple[int, ...]:
    dim, strides = len(patch_size), kwargs["strides"]
    strides = [strides] * kwargs["n_stages"] if isinstance(strides, int) else strides
    per_axis = [[stride] * dim if isinstance(stride, int) else stride for stride in strides]
    if any(len(stride) != dim for stride in per_axis):
        raise ConfigError(f"patch size {list(patch_size)} and strides {strides} differ in their number of axes.")
    return tuple(int(size) // prod(axis) for size, axis in zip(patch_size, zip(*per_axis, strict=True), strict=True))


def _halved(convs: int | list[int]) -> int | list[int]:
    return (convs + 1) // 2 if isinstance(convs, int) else [(n + 1) // 2 for n in convs]


def _last(value: int | list[int]) -> int:
    return value if isinstance(value, int) else value[-1]


def _plain(value: Any) -> Any:
    """A copy in JSON's types: planners leave tuples and numpy numbers, plans read from a file do not have them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.item() if hasattr(value, "item") else value
