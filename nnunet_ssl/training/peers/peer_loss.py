"""The losses of the peers: nnU-Net's own on labelled samples, and a term of the method on samples from the pool."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nnunet_ssl.training.extra_channels import samples_from_pool
from nnunet_ssl.training.supervised_loss import LabelledLoss


def pool_samples(target: Sequence[Tensor]) -> Tensor:
    """Which samples of a batch come from the pool, (B,) bool.

    Args:
        target: nnU-Net's targets at every scale, followed by the extra channels at the same scales, as the stage's loader gives them.
    """
    return samples_from_pool(target[len(target) // 2])


class PeerLoss(nn.Module, ABC):
    """Takes the place of nnU-Net's loss; a batch without extra channels (validation) has nnU-Net's loss alone.

    Confidence, probabilities and validity of the pool's voxels are not used: the methods know none of them.

    Args:
        supervised: nnU-Net's loss, lambda_CE applied.
        num_outputs: H, the network's output channels.
        has_regions: whether the network's outputs are regions.
        gathers: whether nnU-Net's loss gathers sums from other processes.
    """

    terms: ClassVar[tuple[str, ...]] = ("loss_supervised", "loss_pool")
    """Names of the entries of `last_terms`, for the log."""

    def __init__(self, *, supervised: nn.Module, num_outputs: int, has_regions: bool, gathers: bool) -> None:
        super().__init__()
        self.supervised = LabelledLoss(supervised, num_outputs=num_outputs, gathers=gathers)
        self.num_outputs = num_outputs
        self.has_regions = has_regions
        self.ramp = 1.0
        """Share of the pool term's final weight; the trainer sets it before each step."""
        self.last_terms: dict[str, Tensor] = {}
        """Detached terms of the last batch with extra channels, unweighted; NaN where the batch had nothing to measure."""

    def forward(self, output: Tensor | Sequence[Tensor], target: Tensor | Sequence[Tensor]) -> Tensor:
        """Loss of a batch.

        Args:
            output: logits (B, H, *spatial), or a list of them, finest first.
            target: nnU-Net's targets, and behind them (training) the extra channels at the same scales.

        Returns:
            Scalar.
        """
        outputs = [output] if isinstance(output, Tensor) else list(output)
        targets = [target] if isinstance(target, Tensor) else list(target)
        if len(targets) < 2 * len(outputs):
            return self._supervised(outputs, targets, None)
        from_pool = pool_samples(targets)
        return self._of_batch(outputs, targets[: len(outputs)], from_pool)

    @abstractmethod
    def _of_batch(self, outputs: Sequence[Tensor], targets: Sequence[Tensor], from_pool: Tensor) -> Tensor:
        """Total loss of a batch of labelled and pool samples; `from_pool` is (B,) bool. Calls `_remember`."""

    def _supervised(self, outputs: Sequence[Tensor], targets: Sequence[Tensor], samples: Tensor | None) -> Tensor:
        """nnU-Net's loss of the samples (B,) bool, of all by default."""
        loss: Tensor = self.supervised(outputs, targets, samples)
        return loss

    def _remember(self, measured: Mapping[str, Tensor | float], device: torch.device) -> None:
        values = {name: measured.get(name, torch.nan) for name in self.terms}
        self.last_terms = {name: torch.as_tensor(value, device=device).detach() for name, value in values.items()}


class ReferenceLoss(PeerLoss, ABC):
    """L_sup of the labelled samples + ramp * weight * (the student on pool samples, held against a reference).

    The reference is made from the same pool samples by another network before the step. Only the finest output is held against it, since
    the papers' networks have no other.
    """

    terms: ClassVar[tuple[str, ...]] = (*PeerLoss.terms, "pool_weight")
    weight: ClassVar[float]
    """Final weight of the pool term."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.reference: Tensor | None = None
        """What the pool samples of the next batch are held against; None: nothing is learned from them."""

    def _of_batch(self, outputs: Sequence[Tensor], targets: Sequence[Tensor], from_pool: Tensor) -> Tensor:
        supervised = self._supervised(outputs, targets, ~from_pool)
        measured: dict[str, Tensor | float] = {"pool_weight": self.ramp * self.weight}
        if not bool(from_pool.all()):
            measured["loss_supervised"] = supervised
        total = supervised
        if self.reference is not None:
            with torch.autocast(device_type=outputs[0].device.type, enabled=False):
                terms = self._pool_terms(outputs[0][from_pool].float(), self.reference)
            measured |= terms
            total = supervised + self.ramp * self.weight * terms["loss_pool"]
        self._remember(measured, supervised.device)
        return total

    @abstractmethod
    def _pool_terms(self, logits: Tensor, reference: Tensor) -> dict[str, Tensor]:
        """The method's term under `loss_pool`, and what else is measured for the log; scalars.

        Args:
            logits: the student's, of the pool samples at full resolution (P, H, *spatial), float32.
            reference: of the same samples.
        """
