"""The harness of the peers: a student without the student's own means."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from torch import nn

from nnunet_ssl.errors import ConfigError
from nnunet_ssl.training.peers.peer_loss import PeerLoss, ReferenceLoss
from nnunet_ssl.training.student import SemiSupervisedStudent

HARNESS_SETTINGS = (
    "length", "init", "optimizer", "initial_lr", "warm_lr", "weight_decay", "cpu_precision", "lambda_ce", "labelled_share",
    "fine_tune_epochs", "distillation_epochs",
)  # fmt: skip
"""Settings of the student section that peers share with the student; a method that uses more says so in `more_settings`."""


class PeerStudent(SemiSupervisedStudent):
    """Loaders, labelled share, network, phases, lengths, optimiser and start of the student; what is learned from the pool is the peer's.

    nnU-Net's own augmentation applies to all samples alike.
    """

    fixed_settings: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"student.strong_augmentation": False, "student.cutmix": 0.0, "student.ema": False, "student.refresh": 0.0}
    )
    loss_kind: ClassVar[type[PeerLoss]]
    more_settings: ClassVar[tuple[str, ...]] = ()
    """Settings of the student section in use besides `HARNESS_SETTINGS`."""

    @classmethod
    def settings_in_use(cls) -> tuple[str, ...]:
        """Settings of the student section that make a difference."""
        return (*HARNESS_SETTINGS, *cls.more_settings)

    # ---- nnU-Net's hooks

    def initialize(self) -> None:
        super().initialize()
        if self.is_ddp and issubclass(self.loss_kind, ReferenceLoss):
            refuse_synchronised_norms(type(self).__name__, self.network)

    def print_plans(self) -> None:
        super().print_plans()
        used = ", ".join(self.settings_in_use())
        self.print_to_log_file(f"{type(self).__name__} uses these settings of the student and no other: {used}", add_timestamp=False)

    # ---- ours

    def _semi_supervised_loss(self, supervised: nn.Module) -> nn.Module:
        return self.loss_kind(
            supervised=supervised,
            num_outputs=self.label_manager.num_segmentation_heads,
            has_regions=self.label_manager.has_regions,
            gathers=self.is_ddp and self.configuration_manager.batch_dice,
        )

    def _terms(self) -> dict[str, int]:
        return dict.fromkeys(self.loss_kind.terms, 1)


def refuse_synchronised_norms(trainer: str, network: nn.Module) -> None:
    """See that a forward pass of a part of the processes waits for nobody.

    References are predicted in training mode, in those processes whose batch has samples of the pool. Batch normalisation, which nnU-Net
    synchronises over processes, would wait for the others.

    Args:
        trainer: its name.
        network: as it is trained by several processes.

    Raises:
        ConfigError: if the network has batch normalisation.
    """
    if any(isinstance(module, nn.SyncBatchNorm) for module in network.modules()):
        raise ConfigError(
            f"{trainer} cannot train a network with batch normalisation on several GPUs: its processes would wait for each other for ever; "
            "train it on one GPU, or with plans of another normalisation."
        )
