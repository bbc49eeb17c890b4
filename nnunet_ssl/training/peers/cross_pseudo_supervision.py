"""Cross pseudo supervision: two networks, each of which learns the other's decisions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn
from torch.nn import functional

from nnunet_ssl.errors import StateError
from nnunet_ssl.networks import unwrap
from nnunet_ssl.training.epoch_terms import to_host
from nnunet_ssl.training.peers.peer_loss import ReferenceLoss, pool_samples
from nnunet_ssl.training.peers.peer_student import PeerStudent
from nnunet_ssl.training.peers.second_network import Learner, second_learner, share_start
from nnunet_ssl.training.phases import DISTILLATION, SEMI_SUPERVISED
from nnunet_ssl.training.reference_prediction import reference_logits
from nnunet_ssl.training.student_loss import ramp_weight
from nnunet_ssl.training.trans_aspp_network import TransASPPNetwork

CROSS_WEIGHT = 1.5
"""lambda of Chen et al. (2021) on PASCAL VOC, the smaller of their two data sets (6 on Cityscapes)."""
SECOND = "_second"
"""Ending of the log's terms of the second network."""


def decisions(logits: Tensor, *, has_regions: bool) -> Tensor:
    """Hard pseudo-labels: the class (P, *spatial) int64, or for regions inside or outside (P, R, *spatial) float32 in {0, 1}."""
    return (logits > 0).float() if has_regions else logits.argmax(1)


def _first_weights(network: Any) -> Tensor:
    """One tensor by which another start is told from this one: the weights of the first layer."""
    return next(unwrap(network).parameters()).detach()


class CrossLoss(ReferenceLoss):
    """Cross-entropy to the other network's decisions, in nats, averaged over voxels (of regions: and regions)."""

    weight = CROSS_WEIGHT

    decided: Tensor | None = None
    """This network's own decisions on the pool samples of the last batch that had a reference."""

    def _pool_terms(self, logits: Tensor, reference: Tensor) -> dict[str, Tensor]:
        self.decided = decisions(logits.detach(), has_regions=self.has_regions)
        if self.has_regions:
            return {"loss_pool": functional.binary_cross_entropy_with_logits(logits, reference)}
        return {"loss_pool": functional.cross_entropy(logits, reference)}


class CrossPseudoSupervisionTrainer(TransASPPNetwork, PeerStudent):
    """`nnUNetv2_train STAGE_DATASET CONFIGURATION FOLD -tr CrossPseudoSupervisionTrainer`.

    Chen, Yuan, Zeng and Wang (2021), "Semi-supervised semantic segmentation with cross pseudo supervision": two networks of one
    architecture and different initialisation; on samples from the pool each learns the argmax of the other by cross-entropy, on labelled
    samples both learn as ever. The first is what is evaluated and saved; the second lives in the checkpoint's entry of ours alone. The
    stage's pseudo-labels are not used.

    The weight rises linearly over the student's `ramp_up`, here in every stage, because the second network begins each anew. The paper
    has no ramp-up: neither of its networks is trained on the task before the other.
    """

    loss_kind = CrossLoss
    more_settings: ClassVar[tuple[str, ...]] = ("ramp_up",)

    # set by nnU-Net
    network: Any

    second: Learner
    """All that trains the second network."""

    # ---- nnU-Net's hooks

    def initialize(self) -> None:
        super().initialize()
        self.second = second_learner(self, shares_start=self.stage.start_checkpoint is not None)
        self._start = _first_weights(self.network).clone()
        with self._second_in_turn():
            self.optimizer, self.lr_scheduler = self.configure_optimizers()
            if self.is_ddp:
                synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(self.network)  # type: ignore[no-untyped-call]
                self.network = nn.parallel.DistributedDataParallel(synchronised, device_ids=[self.local_rank])

    def on_train_start(self) -> None:
        super().on_train_start()
        # weights given with -pretrained_weights came in after the second network was made
        if self.current_epoch == 0 and not torch.equal(_first_weights(self.network), self._start):
            share_start(self.network, self.second.network)

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        super().on_train_epoch_end(train_outputs)
        steps = self.second.finite_steps
        steps.check_scale(self.second.grad_scaler, epoch=self.current_epoch)
        if steps.skipped:
            self.print_to_log_file(f"{steps.skipped} of {len(train_outputs)} steps of the second network changed nothing")
        steps.skipped = 0

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.second.network.train()
        self.second.lr_scheduler.step(self.current_epoch)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        if self.phase.name == DISTILLATION:
            return super().train_step(batch)
        first, second = self.loss, self.second.loss
        first.reference = first.decided = self._decisions_of_second(batch)
        outputs = super().train_step(batch)
        # what the first decided before this step changed it
        second.reference, second.ramp = first.decided, first.ramp
        self.second.finite_steps.before_step(self.second.grad_scaler)
        with self._second_in_turn():
            loss = nnUNetTrainer.train_step(self, batch)["loss"]
        measured = to_host({f"{name}{SECOND}": value for name, value in second.last_terms.items()})
        cases = [str(key) for key in batch.get("keys", ())]
        scaler = self.second.grad_scaler
        self.second.finite_steps.after_step(loss, measured, epoch=self.current_epoch, cases=cases, scaler=scaler)
        return self.terms.complete({**outputs, **measured})

    # ---- ours

    def _decisions_of_second(self, batch: dict[str, Any]) -> Tensor | None:
        """The second network's decisions on the batch's pool samples, or None where there are none or another phase has begun."""
        from_pool = pool_samples(batch["target"])
        if self.phase.name != SEMI_SUPERVISED or not bool(from_pool.any()):
            return None
        images = batch["data"][from_pool].to(self.device, non_blocking=True)
        return decisions(reference_logits(self.second.network, images), has_regions=self.label_manager.has_regions)

    @contextmanager
    def _second_in_turn(self) -> Iterator[None]:
        """While it is open, nnU-Net's methods work on the second network; what they set is kept."""
        first, second = Learner.of(self), self.second
        second.lend_to(self)
        try:
            yield
        finally:
            self.second = Learner.of(self)
            first.lend_to(self)

    def _ramp(self) -> float:
        if self.phase.name != SEMI_SUPERVISED:
            return 0.0
        return ramp_weight(self._step, ramp_steps=self.method.student.ramp_up * self._semi_supervised_steps)

    def _terms(self) -> dict[str, int]:
        return {name + ending: 1 for ending in ("", SECOND) for name in self.loss_kind.terms}

    def _checkpoint_entry(self) -> dict[str, Any]:
        return {**super()._checkpoint_entry(), "second": self.second.state()}

    def _restore(self, entry: dict[str, Any] | None) -> None:
        super()._restore(entry)
        if entry is None or "second" not in entry:
            raise StateError("the checkpoint has no second network; continue with the trainer it was trained with.")
        self.second.restore(entry["second"])
