"""Naive self-training: pseudo-labels as if they were manual."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nnunet_ssl.training.peers.peer_loss import PeerLoss
from nnunet_ssl.training.peers.peer_student import PeerStudent
from nnunet_ssl.training.phases import SEMI_SUPERVISED
from nnunet_ssl.training.trans_aspp_network import TransASPPNetwork


class WholeBatchLoss(PeerLoss):
    """nnU-Net's Dice and cross-entropy of the whole batch; `loss_supervised` and `loss_pool` are its values on the two kinds of samples."""

    def _of_batch(self, outputs: Sequence[Tensor], targets: Sequence[Tensor], from_pool: Tensor) -> Tensor:
        # a batch that was loaded before the fine-tuning phase began may hold pool samples still
        total = self._supervised(outputs, targets, None if self.ramp else ~from_pool)
        measured: dict[str, Tensor | float] = {}
        with torch.no_grad():
            for name, samples in (("loss_supervised", ~from_pool), ("loss_pool", from_pool)):
                # where losses are gathered, every process takes part in every step
                value = self._supervised(outputs, targets, samples)
                if bool(samples.any()) and (self.ramp or name == "loss_supervised"):
                    measured[name] = value
        self._remember(measured, total.device)
        return total


class NaiveSelfTrainingTrainer(TransASPPNetwork, PeerStudent):
    """`nnUNetv2_train STAGE_DATASET CONFIGURATION FOLD -tr NaiveSelfTrainingTrainer`.

    Self-training in its oldest form (Lee, 2013, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural
    Networks"): every voxel of the pool carries the evidence's label, right or wrong, and is learned as a manual label is. No threshold, no
    confidence, no unlearning, no ramp-up, no strong augmentation, no CutMix, no moving average. (Where nnU-Net centres a patch on
    foreground, it is confident foreground, as for every trainer of a stage.)
    """

    loss_kind = WholeBatchLoss

    def _ramp(self) -> float:
        return 1.0 if self.phase.name == SEMI_SUPERVISED else 0.0
