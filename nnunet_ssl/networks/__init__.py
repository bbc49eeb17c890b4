"""TransASPP-UNet, its self-configuration from nnU-Net's plans, and stochastic sampling from any network."""

from nnunet_ssl.networks.aspp import ASPP, clip_dilations
from nnunet_ssl.networks.attention_gate import AttentionGate
from nnunet_ssl.networks.sampling import StochasticSampler, has_uncertainty_head, mirror_views, single_pass, unwrap
from nnunet_ssl.networks.self_configuration import derive_architecture
from nnunet_ssl.networks.squeeze_excitation import SqueezeExcitation
from nnunet_ssl.networks.trans_aspp_unet import EncodedFeatures, TransASPPUNet
from nnunet_ssl.networks.transformer import TransformerBlock, TransformerBottleneck
from nnunet_ssl.networks.uncertainty_head import UncertaintyHead

__all__ = [
    "ASPP",
    "AttentionGate",
    "EncodedFeatures",
    "SqueezeExcitation",
    "StochasticSampler",
    "TransASPPUNet",
    "TransformerBlock",
    "TransformerBottleneck",
    "UncertaintyHead",
    "clip_dilations",
    "derive_architecture",
    "has_uncertainty_head",
    "mirror_views",
    "single_pass",
    "unwrap",
]
