"""The dual loss of pool samples: L_high on voxels to be trusted, R_low on the others (Eqs. 9, 10, 12, 13)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn

from nnunet_ssl.config import TARGET_KINDS, Normalisation
from nnunet_ssl.errors import ConfigError
from nnunet_ssl.losses.dice_semimetric import dice_semimetric_loss
from nnunet_ssl.losses.unlearning import unlearning_form
from nnunet_ssl.losses.voxel_prediction import VoxelPrediction, voxel_prediction


class DualTerms(NamedTuple):
    """The two terms of the dual loss and what the log says of them; all but the terms are detached."""

    high: Tensor
    """L_high, scalar; to be weighted by lambda_1."""
    low: Tensor
    """R_low, scalar; to be weighted by lambda_2 and added."""
    share_confident: Tensor
    """n_high / (n_high + n_low), scalar; 0 where there is no valid voxel."""
    n_high: Tensor
    """Number of confident voxels (of regions: voxels times regions), scalar int64."""
    n_low: Tensor
    """Number of the other valid voxels, scalar int64."""
    share_per_class: Tensor
    """Of the valid voxels with pseudo-label k (of regions: inside region k), the confident share; (H,), NaN where there is none."""


class DualPoolLoss(nn.Module):
    """L_high and R_low over the pool samples of a batch, at one scale.

    Deep supervision, lambda_1, lambda_2, the ramp-up and the cap on R_low's gradient are the caller's.
    """

    tau: Tensor

    def __init__(
        self,
        *,
        mode: str,
        targets: str,
        normalisation: str,
        confidence_weighting: bool,
        overlap: bool,
        tau: float | Sequence[float],
        has_regions: bool,
        batch_dice: bool,
        num_impossible: int = 0,
    ) -> None:
        """Take the settings of `StudentConfig` by value.

        Args:
            mode: form of R_low, see `unlearning.py`.
            targets: `hard` (the pseudo-label) or `soft` (q), for L_high.
            normalisation: `joint` divides both sums by |high| + |low| of the sample, `separate` each by its own count (Eqs. 12, 13).
            confidence_weighting: weigh each voxel's cross-entropy in L_high by its confidence.
            overlap: add the Dice semimetric loss on confident voxels to L_high.
            tau: threshold in [0, 1]; one number, or one per class (region).
            has_regions: whether the heads are regions.
            batch_dice: take the overlap over the whole batch instead of per sample.
            num_impossible: softmax classes that the caller leaves no probability; a guess is among the others.

        Raises:
            ConfigError: on a value that is not one of the above.
        """
        super().__init__()
        unlearning_form(mode)
        _require_choice("targets", targets, TARGET_KINDS)
        _require_choice("normalisation", normalisation, get_args(Normalisation))
        thresholds = [float(t) for t in tau] if isinstance(tau, Sequence) else [float(tau)]
        if not thresholds or not all(0 <= t <= 1 for t in thresholds):
            raise ConfigError(f"tau is {tau!r}; expected numbers in [0, 1].")
        self.mode = mode
        self.targets = targets
        self.normalisation = normalisation
        self.confidence_weighting = confidence_weighting
        self.overlap = overlap
        self.has_regions = has_regions
        self.batch_dice = batch_dice
        self.num_impossible = num_impossible
        self.register_buffer("tau", torch.tensor(thresholds, dtype=torch.float32), persistent=False)

    def forward(self, logits: Tensor, *, labels: Tensor, confidence: Tensor, q: Tensor | None, valid: Tensor) -> DualTerms:
        """Both terms of the pool samples.

        Args:
            logits: (B, C, *spatial) for softmax heads, (B, R, *spatial) for region heads.
            labels: pseudo-labels, (B, *spatial) int, for regions (B, R, *spatial) in {0, 1}; any value at invalid voxels.
            confidence: c in [0, 1], (B, 1, *spatial), for regions (B, R, *spatial).
            q: probabilities of the evidence, shaped as the logits; None where neither term uses them.
            valid: (B, 1, *spatial) bool, false in padding and at ignored voxels.

        Raises:
            ConfigError: if q is None but needed, or tau has not one value per class.
            ValueError: if the shapes do not fit each other.
        """
        with torch.autocast(device_type=logits.device.type, enabled=False):
            _require_shape("valid", valid, (logits.shape[0], 1, *logits.shape[2:]))
            _require_shape("confidence", confidence, tuple(logits.shape if self.has_regions else valid.shape))
            labels = self._labels_of_valid(labels, valid)
            prediction = voxel_prediction(
                logits=logits, labels=labels, q=self._normalised(q), has_regions=self.has_regions, num_impossible=self.num_impossible
            )
            confidence = confidence.float()
            confident = confidence >= self._tau_map(labels, heads=logits.shape[1])
            high, low = valid & confident, valid & ~confident
            return self._terms(prediction, confidence, high, low)

    def _terms(self, prediction: VoxelPrediction, confidence: Tensor, high: Tensor, low: Tensor) -> DualTerms:
        n_high, n_low = (mask.flatten(1).sum(1) for mask in (high, low))
        joint = self.normalisation == "joint"
        ce = prediction.target_ce if self.targets == "soft" else prediction.label_ce
        if self.confidence_weighting:
            ce = ce * confidence
        loss_high = _mean_over_samples(ce, high, n_high + n_low if joint else n_high)
        if self.overlap:
            loss_high = loss_high + self._overlap(prediction, high)
        rejection = unlearning_form(self.mode)(prediction)
        loss_low = _mean_over_samples(rejection, low, n_high + n_low if joint else n_low)
        total_high, total_low = n_high.sum(), n_low.sum()
        share = total_high / (total_high + total_low).clamp_min(1)
        return DualTerms(loss_high, loss_low, share, total_high, total_low, self._share_per_class(prediction, high, low))

    def _overlap(self, prediction: VoxelPrediction, mask: Tensor) -> Tensor:
        heads = prediction.logits.shape[1]
        # the background of softmax heads is no structure of its own
        first = 0 if self.has_regions else 1
        targets = prediction.q if self.targets == "soft" else self._membership(prediction.labels, heads).float()
        return dice_semimetric_loss(prediction.probs[:, first:], targets[:, first:], mask=mask, batch_dice=self.batch_dice)

    def _membership(self, labels: Tensor, heads: int) -> Tensor:
        """Whether each voxel carries each class or region, (B, H, *spatial) bool."""
        if self.has_regions:
            return labels > 0
        classes = torch.arange(heads, device=labels.device).view(1, heads, *[1] * (labels.ndim - 1))
        return labels.unsqueeze(1) == classes

    def _share_per_class(self, prediction: VoxelPrediction, high: Tensor, low: Tensor) -> Tensor:
        members = self._membership(prediction.labels, prediction.logits.shape[1])
        dims = [0, *range(2, members.ndim)]
        confident = (members & high).sum(dims)
        # 0 / 0 is the NaN that says: no such voxel
        return confident / (members & (high | low)).sum(dims)

    def _labels_of_valid(self, labels: Tensor, valid: Tensor) -> Tensor:
        """Labels as the losses index by them; where nothing counts they may be an ignore label or -1."""
        outside = ~valid if self.has_regions else ~valid.squeeze(1)
        return labels.long().masked_fill(outside, 0)

    def _normalised(self, q: Tensor | None) -> Tensor | None:
        """Probabilities that interpolation, pasting and rounding have left a little off, as such again; padding stays 0."""
        if q is None:
            return None
        q = q.float().clamp(0, 1)
        return q if self.has_regions else q / q.sum(1, keepdim=True).clamp_min(1e-6)

    def _tau_map(self, labels: Tensor, heads: int) -> Tensor:
        tau = self.tau.to(labels.device)
        if len(tau) == 1:
            return tau
        if len(tau) != heads:
            raise ConfigError(
                f"tau has {len(tau)} values for {heads} {'regions' if self.has_regions else 'classes'}; give one, or one each."
            )
        return tau.view(1, heads, *[1] * (labels.ndim - 2)) if self.has_regions else tau[labels].unsqueeze(1)


def _mean_over_samples(values: Tensor, mask: Tensor, counts: Tensor) -> Tensor:
    """Sum of the masked values of each sample over its count, averaged over the samples; exactly 0, with a graph, where all are empty."""
    sums = torch.where(mask, values, 0.0).flatten(1).sum(1)
    return (sums / counts.clamp_min(1)).sum() / max(1, len(counts))


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}; expected one of {', '.join(choices)}.")


def _require_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {shape}.")
