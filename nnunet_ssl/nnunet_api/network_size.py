"""How large the network of a training is, from the plans alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from torch import nn

from nnunet_ssl.nnunet_api.external_trainers import find_trainer
from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.nnunet_api.trainer_network import build_network


@dataclass(frozen=True)
class NetworkSize:
    """Weights of a network."""

    weights: int
    """Numbers, each once."""
    tensors: int


def shapes_of_network(setup: NnunetSetup, trainer: str) -> nn.Module:
    """The network that a trainer builds, on PyTorch's meta device, which has shapes and no numbers.

    Args:
        setup: gives plans and configuration.
        trainer: class name.

    Raises:
        SetupError: if there is no such trainer.
    """
    plans, configuration = setup.plans_manager, setup.configuration_manager
    channels = determine_num_input_channels(plans, configuration, setup.dataset_json)
    with torch.device("meta"):
        return build_network(find_trainer(trainer), plans, configuration, channels, setup.heads, deep_supervision=True)


def network_size(setup: NnunetSetup, trainer: str) -> NetworkSize:
    """Weights and buffers of the network that a trainer builds.

    Args:
        setup: gives plans and configuration.
        trainer: class name.

    Raises:
        SetupError: if there is no such trainer.
    """
    network = shapes_of_network(setup, trainer)
    tensors = [*network.parameters(), *network.buffers()]
    return NetworkSize(sum(tensor.numel() for tensor in tensors), len(tensors))
