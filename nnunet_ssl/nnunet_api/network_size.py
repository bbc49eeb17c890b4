"""How large the network of a training is, from the plans alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from torch import nn

from nnunet_ssl.nnunet_api.external_trainers import find_trainer
from nnunet_ssl.nnunet_api.setup import NnunetSetup


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
    build = find_trainer(trainer).build_network_architecture
    plans, configuration = setup.plans_manager, setup.configuration_manager
    channels = determine_num_input_channels(plans, configuration, setup.dataset_json)
    with torch.device("meta"):
        network: nn.Module = build(plans, configuration, channels, setup.heads, enable_deep_supervision=True)
    return network


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
