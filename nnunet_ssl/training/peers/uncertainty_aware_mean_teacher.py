"""Uncertainty-aware mean teacher: consistency only where the teacher is sure."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from nnunet_ssl.training.peers.consistency import greatest_entropy, predictive_entropy, squared_difference
from nnunet_ssl.training.peers.mean_teacher import ConsistencyLoss, MeanTeacherTrainer
from nnunet_ssl.training.reference_prediction import probabilities

NUM_PASSES = 8
"""T, the teacher's passes that the entropy is estimated from."""
FIRST_THRESHOLD = 3 / 4
"""Threshold at the start of the ramp-up, as a share of the greatest entropy; at its end it is 1."""


class CertainConsistencyLoss(ConsistencyLoss):
    """The mean teacher's term, averaged over the voxels where the teacher's entropy lies below the threshold.

    The threshold is (3/4 + 1/4 ramp) times the greatest entropy: log C, for regions log 2 and one map per region.
    """

    terms: ClassVar[tuple[str, ...]] = (*ConsistencyLoss.terms, "certain_share")

    entropy: Tensor | None = None
    """Of the teacher's mean prediction, in nats, (P, 1, *spatial), for regions (P, R, *spatial); set with `reference`."""

    @property
    def threshold(self) -> float:
        """Entropy in nats below which a voxel counts."""
        share = FIRST_THRESHOLD + (1 - FIRST_THRESHOLD) * self.ramp
        return share * greatest_entropy(self.num_outputs, has_regions=self.has_regions)

    def _pool_terms(self, logits: Tensor, reference: Tensor) -> dict[str, Tensor]:
        if self.entropy is None:
            raise RuntimeError("the reference came without the teacher's entropy.")
        certain = self.entropy < self.threshold
        difference = squared_difference(probabilities(logits, has_regions=self.has_regions), reference, certain)
        return {"loss_pool": difference, "certain_share": certain.float().mean()}


class UAMTTrainer(MeanTeacherTrainer):
    """`nnUNetv2_train STAGE_DATASET CONFIGURATION FOLD -tr UAMTTrainer`.

    Yu, Wang, Li, Fu and Heng (2019), "Uncertainty-aware self-ensembling model for semi-supervised 3D left atrium segmentation": a mean
    teacher whose consistency counts only where the entropy of T = 8 further passes of the teacher, each with noise and dropout of its own,
    is below a threshold that rises with the weight. A network without dropout differs between passes by the noise alone.
    """

    loss_kind = CertainConsistencyLoss

    def _teach(self, images: Tensor) -> None:
        super()._teach(images)
        total = torch.zeros_like(self.loss.reference)
        for _ in range(NUM_PASSES):
            total += self._teacher_probabilities(images)
        self.loss.entropy = predictive_entropy(total / NUM_PASSES, has_regions=self.label_manager.has_regions)
