"""The student's loss: L_sup on labelled samples, L_high and R_low on pool samples (paper Eq. 11)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nnunet_ssl.confidence.quantise import SHARE_STEPS
from nnunet_ssl.config import StudentConfig
from nnunet_ssl.losses import DualPoolLoss, DualTerms, unlearning_scale
from nnunet_ssl.training.extra_channels import CODE_POOL, samples_from_pool
from nnunet_ssl.training.supervised_loss import LabelledLoss, inner_loss, scale_weights

TERMS = ("loss_supervised", "loss_high", "loss_low", "confident_share", "unlearning_gradient_ratio")
"""Names of the scalar entries of `DualLoss.last_terms`, for the log."""
IMPOSSIBLE = -1e4
"""Logit of a class that is left out of a softmax; finite, since 0 times infinity is no number."""
CLASS_TERM = "confident_share_per_class"
"""Name of the entry with one value per network output."""


def ramp_weight(step: int, *, ramp_steps: float) -> float:
    """Weight of the pool terms: rises linearly from 0 to 1 over the first `ramp_steps` optimiser steps, then stays."""
    return 1.0 if step >= ramp_steps else step / ramp_steps


class DualLoss(nn.Module):
    """Takes the place of nnU-Net's loss; called with or without extra channels behind the targets.

    Total: L_sup + ramp (lambda_1 L_high + s lambda_2 R_low), every term summed over nnU-Net's deep-supervision weights; s <= 1 holds
    R_low's gradient at the logits to a share of L_sup's. A batch without extra channels (validation) has nnU-Net's loss alone.

    Args:
        supervised: nnU-Net's loss, lambda_CE applied.
        config: the student's settings.
        has_regions: whether the network's outputs are regions.
        num_outputs: H, the network's output channels.
        batch_dice: whether the plans sum Dice over the batch.
        is_distributed: whether several processes train together.
        blind_heads: outputs that the teacher hardly ever finds; pool samples teach nothing about them, manual labels do.
    """

    def __init__(
        self,
        *,
        supervised: nn.Module,
        config: StudentConfig,
        has_regions: bool,
        num_outputs: int,
        batch_dice: bool,
        is_distributed: bool,
        blind_heads: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.config = config
        self.has_regions = has_regions
        self.num_outputs = num_outputs
        self.is_distributed = is_distributed
        self.blind_heads = list(blind_heads)
        self.weights = scale_weights(supervised)
        if config.unlearning_gradient_ratio is not None:
            _uncompile_dice(supervised)
        self.supervised = LabelledLoss(supervised, num_outputs=num_outputs, gathers=is_distributed and batch_dice)
        self.pool = DualPoolLoss(
            mode=config.unlearning,
            targets=config.targets,
            normalisation=config.normalisation,
            confidence_weighting=config.confidence_weighting,
            overlap=config.overlap,
            tau=config.fixed_tau,
            has_regions=has_regions,
            batch_dice=batch_dice,
            num_impossible=0 if has_regions else len(self.blind_heads),
        )
        self.ramp = 1.0
        """Weight of the pool terms; the trainer sets it before each step."""
        self.last_terms: dict[str, Tensor] = {}
        """Detached terms of the last batch with extra channels, unweighted; NaN where the batch had nothing to measure."""
        self.last_scale: Tensor | None = None
        """Factor on R_low that was measured last; what a batch without a labelled voxel takes."""

    def forward(self, output: Tensor | Sequence[Tensor], target: Tensor | Sequence[Tensor]) -> Tensor:
        """Loss of a batch.

        Args:
            output: logits (B, H, *spatial), or a list of them, finest first.
            target: nnU-Net's targets, and behind them (training) the extra channels at the same scales, int16.

        Returns:
            Scalar.
        """
        outputs = [output] if isinstance(output, Tensor) else list(output)
        targets = [target] if isinstance(target, Tensor) else list(target)
        if len(targets) < 2 * len(outputs):
            return self.supervised(outputs, targets)  # type: ignore[no-any-return]
        targets, extras = targets[: len(outputs)], targets[len(outputs) :]
        from_pool = samples_from_pool(extras[0])
        supervised = self.supervised(outputs, targets, ~from_pool)
        high, low, finest = self._pool_terms(outputs, targets, extras, from_pool)
        weighted_low = self.ramp * self.config.lambda_low * low
        scale, ratio = self._unlearning_scale(supervised, weighted_low, outputs[0], from_pool)
        self._remember(supervised, high, low, ratio, finest, from_pool)
        return supervised + self.ramp * self.config.lambda_high * high + scale * weighted_low  # type: ignore[no-any-return]

    def _pool_terms(
        self, outputs: Sequence[Tensor], targets: Sequence[Tensor], extras: Sequence[Tensor], from_pool: Tensor
    ) -> tuple[Tensor, Tensor, DualTerms | None]:
        """L_high and R_low over all scales, and the terms of the finest."""
        high = low = torch.stack([o[:0].float().sum() for o in outputs]).sum()
        finest = None
        if not bool(from_pool.any()):
            return high, low, finest
        for weight, logits, target, extra in zip(self.weights, outputs, targets, extras, strict=True):
            if weight == 0:
                continue
            terms = self._at_scale(logits[from_pool], target[from_pool], extra[from_pool])
            finest = finest or terms
            high, low = high + weight * terms.high, low + weight * terms.low
        return high, low, finest

    def _at_scale(self, logits: Tensor, target: Tensor, extra: Tensor) -> DualTerms:
        num_confidence = self.num_outputs if self.has_regions else 1
        valid = extra[:, :1] == CODE_POOL
        if self.has_regions:
            labels = target[:, : self.num_outputs]
            # nnU-Net appends the ignore label as one more region
            valid = valid & ~target[:, self.num_outputs :].any(1, keepdim=True)
        else:
            labels = target[:, 0]
            valid = valid & (target[:, :1] < self.num_outputs)
        # divided in float32, so that a stored 0.9 equals a threshold of 0.9; by a tensor, since a GPU multiplies by 1 / number instead
        values = extra[:, 1:].float() / torch.full((), SHARE_STEPS, dtype=torch.float32, device=extra.device)
        q = values[:, num_confidence:] if self.config.needs_probabilities else None
        if self.blind_heads:
            logits, q, valid = self._without_blind_heads(logits, q, labels, valid)
        terms: DualTerms = self.pool(logits, labels=labels, confidence=values[:, :num_confidence], q=q, valid=valid)
        return terms

    def _without_blind_heads(self, logits: Tensor, q: Tensor | None, labels: Tensor, valid: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Let no gradient reach a blind head: regions are cut off, classes leave the softmax, the target and the voxels they label."""
        blind = torch.tensor(self.blind_heads, device=logits.device)
        is_blind = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device).index_fill(0, blind, True)
        is_blind = is_blind.view(1, -1, *[1] * (logits.ndim - 2))
        if self.has_regions:
            return torch.where(is_blind, logits.detach(), logits), q, valid
        q = None if q is None else q.masked_fill(is_blind, 0.0)  # normalised again by the loss
        return logits.float().masked_fill(is_blind, IMPOSSIBLE), q, valid & ~torch.isin(labels, blind).unsqueeze(1)

    def _unlearning_scale(self, supervised: Tensor, low: Tensor, logits: Tensor, from_pool: Tensor) -> tuple[Tensor, Tensor]:
        """Factor on R_low, and the gradient ratio before it.

        A batch without a labelled voxel has nothing to measure R_low against: the last known factor stays.
        """
        one, unknown = torch.ones((), device=logits.device), torch.full((), torch.nan, device=logits.device)
        limit = self.config.unlearning_gradient_ratio
        if limit is None or not logits.requires_grad:
            return one, unknown
        last = one if self.last_scale is None else self.last_scale
        # backward through gathered Dice sums is a collective step: with several processes, all measure in every step
        mixed = bool(from_pool.any()) and not bool(from_pool.all())
        if not mixed and not self.is_distributed:
            return last, unknown
        scale, ratio = unlearning_scale(supervised, low, logits, max_ratio=limit)
        if not mixed:
            return last, unknown
        scale = torch.where(torch.isnan(scale), last, scale)
        self.last_scale = torch.where(scale > 0, scale, last)  # an overflow leaves unlearning out of its own step alone
        return scale, ratio

    def _remember(self, supervised: Tensor, high: Tensor, low: Tensor, ratio: Tensor, finest: DualTerms | None, from_pool: Tensor) -> None:
        unknown = torch.full((), torch.nan, device=supervised.device)
        known = finest is not None
        share = finest.share_confident.float() if finest is not None else unknown
        per_class = finest.share_per_class.float() if finest is not None else unknown.expand(self.num_outputs)
        has_labelled = bool((~from_pool).any())
        values = (supervised.float() if has_labelled else unknown, high if known else unknown, low if known else unknown, share, ratio)
        self.last_terms = {name: value.detach() for name, value in zip(TERMS, values, strict=True)}
        self.last_terms[CLASS_TERM] = per_class.detach()


def _uncompile_dice(loss: nn.Module) -> None:
    """Use nnU-Net's Dice loss as it is, not compiled: a compiled backward cannot run twice, and the gradient cap runs it once more."""
    inner = inner_loss(loss)
    if hasattr(inner, "dc"):  # nnU-Net's trainers of one loss alone have no part of that name, and compile nothing
        inner.dc = getattr(inner.dc, "_orig_mod", inner.dc)
