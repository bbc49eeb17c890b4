import copy
import json

import numpy as np
import pytest
import torch
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from nnunet_ssl.errors import ConfigError
from nnunet_ssl.networks import TransASPPUNet, derive_architecture

UNET = "dynamic_network_architectures.architectures.unet."


def planned(kind: str, spacing: tuple[float, ...], size: tuple[int, ...], base_features: int = 8):
    """The architecture block and patch size as nnU-Net's planners make them, still with their tuples."""
    _, strides, kernels, patch, _ = get_pool_and_conv_props(spacing, size, 4, 999999)
    stages, dim = len(strides), len(spacing)
    blocks = {"n_blocks_per_stage": (1, 3, 4, 6, 6, 6, 6)[:stages], "n_conv_per_stage_decoder": (1,) * (stages - 1)}
    if kind == "PlainConvUNet":
        blocks = {"n_conv_per_stage": (2,) * stages, "n_conv_per_stage_decoder": (2,) * (stages - 1)}
    return {
        "network_class_name": UNET + kind,
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": tuple(min(base_features * 2**i, 32) for i in range(stages)),
            "conv_op": f"torch.nn.modules.conv.Conv{dim}d",
            "kernel_sizes": kernels,
            "strides": strides,
            **blocks,
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dim}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ("conv_op", "norm_op", "dropout_op", "nonlin"),
    }, [int(size) for size in patch]


PLANS = {
    "hippocampus": ((1.0, 1.0, 1.0), (40, 56, 40)),
    "thick slices": ((4.0, 1.0, 1.0), (10, 48, 40)),
    "2d": ((1.0, 1.0), (56, 40)),
}


@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
@pytest.mark.parametrize("plan", PLANS)
def test_builds_through_nnunet(kind, plan):
    architecture, patch = planned(kind, *PLANS[plan])
    before = copy.deepcopy(architecture)
    derived = derive_architecture(architecture, patch)
    assert architecture == before
    assert json.loads(json.dumps(derived)) == derived
    network = get_network_from_plans(
        derived["network_class_name"], derived["arch_kwargs"], derived["_kw_requires_import"], 2, 3, deep_supervision=True
    )
    assert type(network) is TransASPPUNet
    network.eval()
    with torch.no_grad():
        outputs = network(torch.randn(1, 2, *patch))
    strides = np.cumprod(np.vstack(derived["arch_kwargs"]["strides"]), axis=0)[:-1]
    assert [tuple(out.shape[2:]) for out in outputs] == [tuple(np.array(patch) // stride) for stride in strides]
    assert network.compute_conv_feature_map_size(patch) > 0


@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
@pytest.mark.parametrize("plan", PLANS)
def test_is_idempotent(kind, plan):
    architecture, patch = planned(kind, *PLANS[plan])
    derived = derive_architecture(architecture, patch)
    assert derive_architecture(derived, patch) == derived


def test_hippocampus_by_hand():
    architecture, patch = planned("PlainConvUNet", *PLANS["hippocampus"])
    kwargs = derive_architecture(architecture, patch)["arch_kwargs"]
    assert patch == [40, 56, 40]
    assert kwargs["aspp_dilations"] == [[1, 1, 1], [2, 2, 2], [2, 3, 2]]  # deepest map 5 x 7 x 5
    assert kwargs["n_blocks_per_stage"] == [1, 1, 1, 1]
    assert kwargs["n_conv_per_stage_decoder"] == [1, 1, 1]
    assert "n_conv_per_stage" not in kwargs
    assert kwargs["features_per_stage"] == [8, 16, 32, 32]
    assert kwargs["attention_heads"] == 1
    assert kwargs["decoder_dropout"] == 0.2


def test_residual_encoder_keeps_its_blocks():
    architecture, patch = planned("ResidualEncoderUNet", *PLANS["hippocampus"])
    kwargs = derive_architecture(architecture, patch)["arch_kwargs"]
    assert kwargs["n_blocks_per_stage"] == [1, 3, 4, 6]
    assert kwargs["n_conv_per_stage_decoder"] == [1, 1, 1]


def test_planned_dropout_becomes_the_decoders():
    architecture, patch = planned("PlainConvUNet", *PLANS["2d"])
    architecture["arch_kwargs"] |= {"dropout_op": "torch.nn.Dropout2d", "dropout_op_kwargs": {"p": 0.35}}
    assert derive_architecture(architecture, patch)["arch_kwargs"]["decoder_dropout"] == 0.35


def test_own_settings_survive_and_dilations_fit_the_patch():
    architecture, patch = planned("PlainConvUNet", *PLANS["hippocampus"])
    derived = derive_architecture(architecture, patch)
    derived["arch_kwargs"] |= {"decoder_dropout": 0.5, "attention_heads": 4, "num_uncertainty_channels": 2, "aspp_dilations": [[1, 3, 1]]}
    again = derive_architecture(derived, patch)
    assert again == derived
    smaller = derive_architecture(derived, [40, 32, 8])["arch_kwargs"]
    assert smaller["aspp_dilations"] == [[1, 2, 0]]


def test_settings_given_once_for_all_stages():
    architecture, patch = planned("PlainConvUNet", *PLANS["2d"])
    kwargs = architecture["arch_kwargs"] | {"n_conv_per_stage": 2, "n_conv_per_stage_decoder": 3, "features_per_stage": 64}
    kwargs["strides"] = [1, *[2] * (kwargs["n_stages"] - 1)]
    derived = derive_architecture(architecture | {"arch_kwargs": kwargs}, patch)["arch_kwargs"]
    assert (derived["n_blocks_per_stage"], derived["n_conv_per_stage_decoder"], derived["attention_heads"]) == (1, 2, 2)
    assert derived["aspp_dilations"] == [[1, 1], [2, 2], [3, 2]]  # 56 x 40 pooled three times: 7 x 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network_class_name": UNET + "SwinUNETR"}, "SwinUNETR.*known: PlainConvUNet"),
        ({"network_class_name": None}, "None"),
        ({"arch_kwargs": {}}, "lack 'n_stages'"),
    ],
)
def test_refuses_architectures(change, message):
    architecture, patch = planned("PlainConvUNet", *PLANS["2d"])
    with pytest.raises(ConfigError, match=message):
        derive_architecture(architecture | change, patch)


def test_refuses_what_it_cannot_honour():
    architecture, patch = planned("PlainConvUNet", *PLANS["2d"])
    architecture["arch_kwargs"]["nonlin_first"] = False
    assert "nonlin_first" not in derive_architecture(architecture, patch)["arch_kwargs"]
    architecture["arch_kwargs"]["nonlin_first"] = True
    with pytest.raises(ConfigError, match="nonlin_first"):
        derive_architecture(architecture, patch)
    with pytest.raises(ConfigError, match="number of axes"):
        derive_architecture(planned("PlainConvUNet", *PLANS["2d"])[0], [40, 40, 40])
