"""The student's prediction at each voxel against its pseudo-label: the quantities that L_high and R_low are made of.

Softmax heads (one class per voxel) and region heads (an independent yes or no per region) differ only here. Every quantity is computed in
float32 when it is first asked for and then kept, since both loss terms of a patch often need the same one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_ssl.errors import ConfigError


class VoxelPrediction(ABC):
    """Logits of a patch with its pseudo-labels and, where given, the probabilities q that these came from.

    Per-voxel results are (B, 1, *spatial) for softmax heads and (B, R, *spatial) for region heads.
    """

    def __init__(self, *, logits: Tensor, labels: Tensor, q: Tensor | None) -> None:
        """Keep the float32 logits (B, H, *spatial), the labels and q (B, H, *spatial) in [0, 1]."""
        self.logits = logits.float()
        self.labels = labels
        self._q = None if q is None else q.float()

    @property
    def q(self) -> Tensor:
        """Probabilities of the evidence, (B, H, *spatial).

        Raises:
            ConfigError: if none were given.
        """
        if self._q is None:
            raise ConfigError("this form of the loss needs the class probabilities q, but the targets carry labels and confidence only.")
        return self._q

    @property
    @abstractmethod
    def log_choices(self) -> float:
        """Cross-entropy of a uniform guess: log of the number of possible classes, for regions log 2."""

    @property
    @abstractmethod
    def zeros(self) -> Tensor:
        """Zero per voxel, still part of the graph."""

    @property
    @abstractmethod
    def probs(self) -> Tensor:
        """Probabilities (B, H, *spatial)."""

    @property
    @abstractmethod
    def label_ce(self) -> Tensor:
        """Cross-entropy to the pseudo-label in nats, per voxel."""

    @property
    @abstractmethod
    def target_ce(self) -> Tensor:
        """Cross-entropy to q in nats, per voxel; its gradient at the logits is p - q."""

    @property
    @abstractmethod
    def label_rejection(self) -> Tensor:
        """-log(1 - p) of the pseudo-label, per voxel."""

    @abstractmethod
    def unlikely_rejection(self, threshold: float) -> Tensor:
        """Sum of -log(1 - p_j) over the choices j with q_j < threshold, per voxel."""


class SoftmaxPrediction(VoxelPrediction):
    """Softmax heads: logits (B, C, *spatial), labels (B, *spatial) int64."""

    def __init__(self, *, logits: Tensor, labels: Tensor, q: Tensor | None, num_impossible: int) -> None:
        """As of the base class; `num_impossible` classes have logits that leave them no probability."""
        super().__init__(logits=logits, labels=labels, q=q)
        self._num_impossible = num_impossible

    @property
    def log_choices(self) -> float:
        return math.log(self.logits.shape[1] - self._num_impossible)

    @property
    def zeros(self) -> Tensor:
        return self.logits[:, :1] * 0

    @cached_property
    def log_probs(self) -> Tensor:
        """Log-probabilities (B, C, *spatial)."""
        return functional.log_softmax(self.logits, dim=1)

    @cached_property
    def probs(self) -> Tensor:
        return self.log_probs.exp()

    @cached_property
    def label_ce(self) -> Tensor:
        return -self.log_probs.gather(1, self.labels.unsqueeze(1))

    @cached_property
    def target_ce(self) -> Tensor:
        return -(self.q * self.log_probs).sum(1, keepdim=True)

    @property
    def label_rejection(self) -> Tensor:
        return -self.log_complements.gather(1, self.labels.unsqueeze(1))

    @cached_property
    def log_complements(self) -> Tensor:
        """log(1 - p_j) of every class, (B, C, *spatial).

        Only the top class can have p > 1/2, where 1 - p loses its digits; for that one the other classes are summed instead.
        """
        top = self.log_probs.argmax(1, keepdim=True)
        of_top = self.log_probs.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True)
        of_others = torch.log1p(-self.probs.scatter(1, top, 0.0))
        return of_others.scatter(1, top, of_top)

    def unlikely_rejection(self, threshold: float) -> Tensor:
        return -torch.where(self.q < threshold, self.log_complements, 0.0).sum(1, keepdim=True)


class RegionPrediction(VoxelPrediction):
    """Region heads: logits (B, R, *spatial), labels (B, R, *spatial) in {0, 1}; each region is a choice between two sides."""

    @property
    def log_choices(self) -> float:
        return math.log(2)

    @property
    def zeros(self) -> Tensor:
        return self.logits * 0

    @cached_property
    def probs(self) -> Tensor:
        return self.logits.sigmoid()

    @cached_property
    def side_logits(self) -> Tensor:
        """Logit of the side that the pseudo-label says, inside or outside, (B, R, *spatial)."""
        return torch.where(self.labels > 0, self.logits, -self.logits)

    @cached_property
    def label_ce(self) -> Tensor:
        return -functional.logsigmoid(self.side_logits)

    @cached_property
    def target_ce(self) -> Tensor:
        return functional.binary_cross_entropy_with_logits(self.logits, self.q, reduction="none")

    @property
    def label_rejection(self) -> Tensor:
        return -functional.logsigmoid(-self.side_logits)

    def unlikely_rejection(self, threshold: float) -> Tensor:
        inside = torch.where(self.q < threshold, functional.logsigmoid(-self.logits), 0.0)
        outside = torch.where(1 - self.q < threshold, functional.logsigmoid(self.logits), 0.0)
        return -(inside + outside)


def voxel_prediction(*, logits: Tensor, labels: Tensor, q: Tensor | None, has_regions: bool, num_impossible: int = 0) -> VoxelPrediction:
    """The prediction of a patch in the form that its heads need.

    Args:
        logits: (B, H, *spatial), any floating type.
        labels: (B, *spatial) int64 for softmax heads, (B, R, *spatial) in {0, 1} for region heads.
        q: probabilities (B, H, *spatial), or None where no term uses them.
        has_regions: whether the heads are regions.
        num_impossible: softmax classes that the caller has left no probability, and among which nobody guesses.

    Raises:
        ValueError: if the shapes do not fit each other; a wrong one would otherwise be broadcast.
    """
    expected = logits.shape if has_regions else logits.shape[:1] + logits.shape[2:]
    if labels.shape != expected:
        raise ValueError(f"labels have shape {tuple(labels.shape)}, logits {tuple(logits.shape)}; expected labels {tuple(expected)}.")
    if q is not None and q.shape != logits.shape:
        raise ValueError(f"q has shape {tuple(q.shape)}, logits {tuple(logits.shape)}; the two must be equal.")
    if has_regions:
        return RegionPrediction(logits=logits, labels=labels, q=q)
    return SoftmaxPrediction(logits=logits, labels=labels, q=q, num_impossible=num_impossible)
