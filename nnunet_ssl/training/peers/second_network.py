"""A second network beside a trainer's own, with all that nnU-Net's training step needs to train it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nnunet_ssl.networks import unwrap

DRAWN_ANEW = ("decoder.", "uncertainty_head.")
"""Parts that do not start from trained weights."""


@dataclass(eq=False, repr=False)
class Learner:
    """What nnU-Net's `train_step` reads from a trainer, for one network."""

    network: Any
    loss: Any
    grad_scaler: Any
    optimizer: Any = None
    lr_scheduler: Any = None

    @classmethod
    def of(cls, trainer: Any) -> Learner:
        """What the trainer has at the moment."""
        return cls(trainer.network, trainer.loss, trainer.grad_scaler, trainer.optimizer, trainer.lr_scheduler)

    def lend_to(self, trainer: Any) -> None:
        """Put everything into the trainer's places."""
        trainer.network, trainer.loss, trainer.grad_scaler = self.network, self.loss, self.grad_scaler
        trainer.optimizer, trainer.lr_scheduler = self.optimizer, self.lr_scheduler

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs to continue, under nnU-Net's own names."""
        return {
            "network_weights": unwrap(self.network).state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "grad_scaler_state": None if self.grad_scaler is None else self.grad_scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        unwrap(self.network).load_state_dict(state["network_weights"])
        self.optimizer.load_state_dict(state["optimizer_state"])
        if self.grad_scaler is not None and state["grad_scaler_state"] is not None:
            self.grad_scaler.load_state_dict(state["grad_scaler_state"])


def second_learner(trainer: Any, *, shares_start: bool) -> Learner:
    """A network of the trainer's kind with an initialisation of its own, without optimiser.

    Args:
        trainer: initialised; not changed.
        shares_start: start from the weights of the trainer's network in all but the decoder, as the paper's two networks share a
            pre-trained backbone and differ in their segmentation heads. With all weights in common they would have nothing to teach each
            other; with none, the one that starts untrained would teach the trained one noise.
    """
    network: nn.Module = trainer.build_network_architecture(
        trainer.plans_manager,
        trainer.configuration_manager,
        trainer.num_input_channels,
        trainer.label_manager.num_segmentation_heads,
        trainer.enable_deep_supervision,
    ).to(trainer.device)
    if shares_start:
        weights = unwrap(trainer.network).state_dict()
        network.load_state_dict({name: value for name, value in weights.items() if not name.startswith(DRAWN_ANEW)}, strict=False)
    compiled: Any = torch.compile(network) if trainer._do_i_compile() else network
    return Learner(network=compiled, loss=trainer._build_loss(), grad_scaler=copy.deepcopy(trainer.grad_scaler))
