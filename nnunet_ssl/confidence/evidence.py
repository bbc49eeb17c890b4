"""What the samples of one case leave behind: moments of the probabilities, votes, and (from a single pass) a predicted log-variance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.errors import ConfigError, StateError

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
LabelArray = NDArray[np.int16]

MAX_VARIANCE = 0.25
"""Largest variance that a number in [0, 1] can have."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """Evidence of one case. H heads: the classes including background, or the regions. Arrays are float32 and are not to be changed."""

    mean: FloatArray
    """M1, mean probabilities, (H, *spatial) in [0, 1]."""
    variance: FloatArray
    """v, variance of the probabilities over samples (and over overlapping windows), (H, *spatial) in [0, 1/4]."""
    votes: FloatArray
    """f, share of the samples that choose the class, or have P > 0.5 for the region, (H, *spatial) in [0, 1]."""
    num_samples: int
    """K, number of samples."""
    has_regions: bool
    """Whether the heads are regions (sigmoid) instead of classes (softmax)."""
    unequal_shares: tuple[float, ...] = ()
    """Share of every sample in a mixture of evidence that they do not have equal shares in, (K,); empty where they do."""
    log_variance: FloatArray | None = None
    """U, log-variance of the prediction by the uncertainty head, (1, *spatial) or, for regions, (R, *spatial); None without one."""

    def __post_init__(self) -> None:
        """Take the arrays as float32 and check that they fit each other.

        Raises:
            StateError: if they do not.
        """
        for name in ("mean", "variance", "votes", "log_variance"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float32))
        least = 1 if self.has_regions else 2
        if self.mean.ndim < 2 or len(self.mean) < least:
            raise StateError(f"mean probabilities have shape {self.mean.shape}; expected (heads, *spatial) with {least} or more heads.")
        for name in ("variance", "votes"):
            _require_shape(name, getattr(self, name).shape, (self.mean.shape,))
        if self.log_variance is not None:
            channels = {1, len(self.mean)} if self.has_regions else {1}
            _require_shape("log-variance", self.log_variance.shape, tuple((c, *self.spatial_shape) for c in sorted(channels)))
        if self.num_samples < 1:
            raise StateError(f"evidence has {self.num_samples} samples; expected 1 or more.")
        if self.unequal_shares and len(self.unequal_shares) != self.num_samples:
            raise StateError(f"evidence of {self.num_samples} samples has shares of {len(self.unequal_shares)}.")

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of every sample in mean and votes, (K,); they sum to 1."""
        return self.unequal_shares or (1 / self.num_samples,) * self.num_samples

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """Shape of the case in voxels."""
        return self.mean.shape[1:]

    def predicted_labels(self) -> LabelArray | BoolArray:
        """The pseudo-label: argmax of the mean, (*spatial) int16, the lower class on ties; for regions mean > 0.5, (R, *spatial) bool."""
        return self.mean > 0.5 if self.has_regions else self.mean.argmax(axis=0).astype(np.int16)

    def foreground(self) -> BoolArray:
        """Voxels predicted as anything but background, (*spatial) bool."""
        labels = self.predicted_labels()
        return np.asarray(labels.any(axis=0) if self.has_regions else labels != 0)


def fuse(teacher: Evidence, student: Evidence, *, weight: float) -> Evidence:
    """Evidence of teacher and student together: the mixture of both in which the student has the share `weight`.

    The moments are those of the mixture, so the variance also holds how far the two means lie apart. The number of samples is the sum; at
    a weight of 0 or 1 one side has no part in the mixture and the other is returned as it is.

    Args:
        teacher: evidence of the original teacher.
        student: evidence of the student for the same case.
        weight: a in [0, 1], the student's share.

    Raises:
        ConfigError: if the weight is outside [0, 1].
        StateError: if the two are not of the same case and heads.
    """
    if not 0 <= weight <= 1:
        raise ConfigError(f"the student's weight is {weight!r}; expected a number in [0, 1].")
    _require_alike([teacher, student])
    if weight in (0, 1):
        return student if weight else teacher
    return _mixture([teacher, student], [1 - weight, weight])


def merge(members: Iterable[Evidence]) -> Evidence:
    """Evidence of several folds of one teacher, each with the same weight; one after another, so that an iterator need hold one at a time.

    Raises:
        StateError: if there is none, or they are not of the same case and heads.
    """
    merged: Evidence | None = None
    for number, member in enumerate(members, start=1):
        merged = member if merged is None else fuse(merged, member, weight=1 / number)
    if merged is None:
        raise StateError("no evidence to merge; at least one fold must have predicted the case.")
    return merged


def _mixture(parts: Sequence[Evidence], weights: Sequence[float]) -> Evidence:
    mean = _weighted_sum([p.mean for p in parts], weights)
    # E[v] + E[(M1 - mean)^2] is E[M2] - mean^2 without the cancellation
    variance = np.zeros_like(mean)
    for part, weight in zip(parts, weights, strict=True):
        variance += np.float32(weight) * (part.variance + np.square(part.mean - mean))
    shares = tuple(weight * share for part, weight in zip(parts, weights, strict=True) for share in part.shares)
    return Evidence(
        mean=mean,
        variance=np.clip(variance, 0, MAX_VARIANCE),
        votes=_weighted_sum([p.votes for p in parts], weights),
        num_samples=sum(p.num_samples for p in parts),
        has_regions=parts[0].has_regions,
        unequal_shares=() if max(shares) - min(shares) < 1e-9 else shares,
        log_variance=_mixed_log_variance(parts, weights),
    )


def _weighted_sum(arrays: Sequence[FloatArray], weights: Sequence[float]) -> FloatArray:
    total = np.zeros_like(arrays[0])
    for array, weight in zip(arrays, weights, strict=True):
        total += np.float32(weight) * array
    return np.clip(total, 0, 1, out=total)


def _mixed_log_variance(parts: Sequence[Evidence], weights: Sequence[float]) -> FloatArray | None:
    """Log of the mean predicted variance where every part predicts one in the same form, else None."""
    logs = [p.log_variance for p in parts if p.log_variance is not None]
    if len(logs) < len(parts) or len({log.shape for log in logs}) > 1:
        return None
    return np.log(_weighted_sum([np.exp(log) for log in logs], weights))


def _require_alike(parts: Sequence[Evidence]) -> None:
    first = parts[0]
    for other in parts[1:]:
        if other.has_regions != first.has_regions:
            raise StateError("evidence of region heads cannot be mixed with evidence of softmax heads.")
        _require_shape("evidence to be mixed", other.mean.shape, (first.mean.shape,))


def _require_shape(name: str, found: tuple[int, ...], expected: tuple[tuple[int, ...], ...]) -> None:
    if found not in expected:
        raise StateError(f"{name} has shape {found}; expected {' or '.join(map(str, expected))}.")
