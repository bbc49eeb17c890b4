"""What a user's trainer, derived from ours or underneath them, cannot have: the phases would heed it in part or not at all."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from torch import nn

from nnunet_ssl.errors import ConfigError
from nnunet_ssl.networks import has_uncertainty_head, unwrap
from nnunet_ssl.training.phases import PhaseSchedule


def refuse_optimizer_in_stages(trainer: str, configure_optimizers: Callable[..., Any]) -> None:
    """See that one optimiser serves the whole training, as it does in all trainers of nnU-Net's but those with a warm-up.

    Args:
        trainer: name of the class that is made.
        configure_optimizers: of the trainer underneath, bound to it.

    Raises:
        ConfigError: if it takes the stage that an optimiser is for, or an argument that nnU-Net would not give.
    """
    unnamed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = [p for p in inspect.signature(configure_optimizers).parameters.values() if p.kind not in unnamed]
    stages = [p.name for p in named if p.name == "stage" or p.default is p.empty]
    if stages:
        raise ConfigError(
            f"{trainer} is built on {configure_optimizers.__qualname__.partition('.')[0]}, which has another optimiser for each of its own "
            f"phases (argument '{stages[0]}'), and those of nnunet-ssl would undo that; build it on a trainer without warm-up."
        )


def refuse_foreign_loaders(trainer: str, get_dataloaders: Callable[..., Any]) -> NoReturn:
    """Say that the loaders which a trainer has made are not those of a student.

    Args:
        trainer: name of the class that made them.
        get_dataloaders: of the trainer underneath, bound to it.

    Raises:
        ConfigError: always.
    """
    raise ConfigError(
        f"{trainer} is built on {get_dataloaders.__qualname__.partition('.')[0]}, whose get_dataloaders makes the training loader without "
        "nnU-Net's own get_dataloaders, so that pseudo-labels would be learned as manual ones: let it call super().get_dataloaders(), or "
        "build the student on another trainer."
    )


def refuse_missing_head(trainer: str, network: nn.Module) -> None:
    """See that the network of a trainer that is taken for one with an uncertainty head has one.

    Args:
        trainer: name of the class.
        network: the one it has built.

    Raises:
        ConfigError: if it has none.
    """
    if not has_uncertainty_head(network):
        raise ConfigError(
            f"{trainer} builds {type(unwrap(network)).__name__}, which has no uncertainty head, but its class or its plans speak of "
            "TransASPPUNet: write 'has_uncertainty_head = False' into the class."
        )


def refuse_changed_schedule(trainer: Any, schedule: PhaseSchedule, settings: Mapping[str, str]) -> None:
    """See that length and first learning rate are still those that the phases were made with.

    Args:
        trainer: one of ours, about to be initialised.
        schedule: its phases.
        settings: what sets either of them, by nnU-Net's name.

    Raises:
        ConfigError: if a constructor has changed one of them since, as is usual with nnU-Net's own trainers.
    """
    planned = {"num_epochs": schedule.num_epochs, "initial_lr": schedule.phases[0].initial_lr}
    for name, value in planned.items():
        if (found := getattr(trainer, name)) != value:
            raise ConfigError(
                f"{type(trainer).__name__} sets {name} to {found}, and its phases were made with {value}; leave that line out and use the "
                f"setting {settings[name]}."
            )
