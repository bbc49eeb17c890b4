"""Mean teacher: the student agrees with its own moving average under other noise."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor

from nnunet_ssl.training.peers.consistency import sigmoid_ramp, squared_difference, with_noise
from nnunet_ssl.training.peers.peer_loss import ReferenceLoss, pool_samples
from nnunet_ssl.training.peers.peer_student import PeerStudent
from nnunet_ssl.training.phases import SEMI_SUPERVISED
from nnunet_ssl.training.reference_prediction import probabilities, reference_logits
from nnunet_ssl.training.trans_aspp_network import TransASPPNetwork

CONSISTENCY_WEIGHT = 0.1
"""Final weight of the consistency term for segmentation, of Yu et al. (2019); the 100 of Tarvainen and Valpola is for image labels."""
DECAY = 0.99
"""Of the teacher's moving average: Tarvainen and Valpola's while the weight rises, Yu et al.'s throughout."""


class ConsistencyLoss(ReferenceLoss):
    """Mean squared difference between the student's probabilities and the reference, the teacher's."""

    weight = CONSISTENCY_WEIGHT

    def _pool_terms(self, logits: Tensor, reference: Tensor) -> dict[str, Tensor]:
        return {"loss_pool": squared_difference(probabilities(logits, has_regions=self.has_regions), reference)}


class MeanTeacherTrainer(TransASPPNetwork, PeerStudent):
    """`nnUNetv2_train STAGE_DATASET CONFIGURATION FOLD -tr MeanTeacherTrainer`.

    Tarvainen and Valpola (2017), "Mean teachers are better role models": ||f(x; theta, n) - f(x; theta', n')||^2 on samples from the pool,
    with theta' the moving average of the student's weights theta, and independent Gaussian noise n, n' on the two inputs. The term's
    weight rises by exp(-5 (1 - t/T)^2) over the T steps of the semi-supervised phase. The average is what is evaluated and saved, as in
    the paper. The stage's pseudo-labels are not used.
    """

    loss_kind: ClassVar[type[ConsistencyLoss]] = ConsistencyLoss
    fixed_settings: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {**PeerStudent.fixed_settings, "student.ema": True, "student.ema_decay": DECAY}
    )

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        self.loss.reference = None
        if self.phase.name == SEMI_SUPERVISED:
            batch = self._with_teacher(batch)
        return super().train_step(batch)

    def _with_teacher(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Ask the teacher about the batch's pool samples; returns the batch with the student's noise on them."""
        from_pool = pool_samples(batch["target"])
        if not bool(from_pool.any()):
            return batch
        images = batch["data"][from_pool]
        with self._evaluated_weights():
            self._teach(images.to(self.device, non_blocking=True))
        data = batch["data"].clone()
        data[from_pool] = with_noise(images)
        return {**batch, "data": data}

    def _teach(self, images: Tensor) -> None:
        """Give the loss the teacher's view of pool images (P, C, *spatial); the network has the teacher's weights."""
        self.loss.reference = self._teacher_probabilities(images)

    def _teacher_probabilities(self, images: Tensor) -> Tensor:
        """One prediction under noise of its own, (P, H, *spatial)."""
        return probabilities(reference_logits(self.network, with_noise(images)), has_regions=self.label_manager.has_regions)

    def _ramp(self) -> float:
        return sigmoid_ramp(self._step, ramp_steps=self._semi_supervised_steps) if self.phase.name == SEMI_SUPERVISED else 0.0
