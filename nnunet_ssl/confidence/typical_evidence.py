"""Evidence as a trained network would leave it of a case whose labels are known; for estimates of its size, before there is any."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.special import expit, softmax

from nnunet_ssl.confidence.evidence import MAX_VARIANCE, Evidence

_LOGIT_PER_VOXEL = 1.3
"""How fast a network becomes certain away from a boundary: between what well trained and barely trained networks left."""
_NOISE = 0.3
"""Standard deviation of the logits, voxel by voxel, of what all samples share and of what each has for itself."""
_SAMPLES = 4
"""The size of variances and votes hardly depends on how many samples they come from."""
_FAR = 99.0
"""Distance in voxels from a class that the case does not have."""


def typical_evidence(masks: NDArray[np.bool_], *, has_regions: bool, seed: int = 0) -> Evidence:
    """Evidence whose logits grow with the distance to the boundary of each class (region), with noise on them.

    Args:
        masks: (H, X, Y, Z): the voxels of every head; with classes, background is the first.
        has_regions: sigmoid heads.
        seed: of the noise.
    """
    random = np.random.default_rng(seed)
    whole = int(np.any(masks if has_regions else masks[1:], axis=0).sum())
    logits = np.stack([_logits(mask, _LOGIT_PER_VOXEL * _steepness(int(mask.sum()), whole)) for mask in masks])
    logits += _noise(random, logits.shape)
    mean, second, votes = (np.zeros(logits.shape, dtype=np.float32) for _ in range(3))
    for _ in range(_SAMPLES):
        sample = logits + _noise(random, logits.shape)
        p = expit(sample) if has_regions else softmax(sample, axis=0)
        mean += p
        second += np.square(p)
        votes += p > 0.5 if has_regions else np.arange(len(p)).reshape(-1, 1, 1, 1) == p.argmax(axis=0)
    for total in (mean, second, votes):
        total /= np.float32(_SAMPLES)
    variance = np.clip(second - np.square(mean), 0, MAX_VARIANCE)
    return Evidence(mean=np.clip(mean, 0, 1), variance=variance, votes=votes, num_samples=_SAMPLES, has_regions=has_regions)


def _steepness(voxels: int, whole: int) -> float:
    """A small structure ends more sharply than all of them together, by the ratio of their diameters."""
    return float(np.cbrt(max(1, whole) / voxels)) if 0 < voxels < whole else 1.0


def _logits(mask: NDArray[np.bool_], slope: float) -> NDArray[np.float32]:
    """(X, Y, Z): positive inside; the boundary lies between two voxels."""
    if not mask.any() or mask.all():
        distance = np.full(mask.shape, _FAR if mask.any() else -_FAR)
    else:
        distance = np.where(mask, distance_transform_edt(mask) - 0.5, 0.5 - distance_transform_edt(~mask))
    return (slope * distance).astype(np.float32)


def _noise(random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.float32(_NOISE) * random.standard_normal(shape, dtype=np.float32)
