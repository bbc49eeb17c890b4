"""The network of a trainer, by whichever signature its `build_network_architecture` has."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn


def build_network(trainer: Any, plans: Any, configuration: Any, num_channels: int, num_heads: int, *, deep_supervision: bool) -> nn.Module:
    """Build a trainer's network, as nnU-Net does for training and prediction.

    Args:
        trainer: its class, or one of its objects.
        plans: nnU-Net's `PlansManager`; trainers that were written for nnU-Net before 2.8 get what it says of the network instead.
        configuration: nnU-Net's `ConfigurationManager`.
        num_channels: C, input channels.
        num_heads: H, network outputs.
        deep_supervision: whether the network gives outputs at several resolutions.
    """
    build = trainer.build_network_architecture
    described: tuple[Any, ...] = (plans, configuration)
    if "plans_manager" not in inspect.signature(build).parameters:
        described = (
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
        )
    network: nn.Module = build(*described, num_channels, num_heads, deep_supervision)
    return network
