"""A second network beside a trainer's own, with all that nnU-Net's training step needs to train it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch

from nnunet_ssl.networks import unwrap
from nnunet_ssl.nnunet_api.trainer_network import build_network
from nnunet_ssl.training.finite_steps import FiniteSteps

DRAWN_ANEW = ("decoder.", "uncertainty_head.")
"""Parts that do not start from trained weights."""


@dataclass(eq=False, repr=False)
class Learner:
    """What nnU-Net's `train_step` reads from a trainer, for one network, and the count of its steps that were not finite."""

    network: Any
    loss: Any
    grad_scaler: Any
    optimizer: Any = None
    lr_scheduler: Any = None
    finite_steps: FiniteSteps = field(default_factory=FiniteSteps)

    @classmethod
    def of(cls, trainer: Any) -> Learner:
        """What the trainer has at the moment."""
        return cls(trainer.network, trainer.loss, trainer.grad_scaler, trainer.optimizer, trainer.lr_scheduler, trainer.finite_steps)

    def lend_to(self, trainer: Any) -> None:
        """Put everything into the trainer's places."""
        trainer.network, trainer.loss, trainer.grad_scaler = self.network, self.loss, self.grad_scaler
        trainer.optimizer, trainer.lr_scheduler, trainer.finite_steps = self.optimizer, self.lr_scheduler, self.finite_steps

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
    network = build_network(
        trainer,
        trainer.plans_manager,
        trainer.configuration_manager,
        trainer.num_input_channels,
        trainer.label_manager.num_segmentation_heads,
        deep_supervision=trainer.enable_deep_supervision,
    ).to(trainer.device)
    if shares_start:
        share_start(trainer.network, network)
    trainer._fit_to_cpu(network)
    compiled: Any = torch.compile(network) if trainer._do_i_compile() else network
    return Learner(
        network=compiled,
        loss=trainer._build_loss(),
        grad_scaler=copy.deepcopy(trainer.grad_scaler),
        finite_steps=FiniteSteps(restores_scale=not trainer.is_ddp),
    )


def share_start(first: Any, second: Any) -> None:
    """Give the second network the first one's weights in all but the decoder."""
    weights = unwrap(first).state_dict()
    unwrap(second).load_state_dict({name: value for name, value in weights.items() if not name.startswith(DRAWN_ANEW)}, strict=False)
