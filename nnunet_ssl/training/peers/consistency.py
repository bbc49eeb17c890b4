"""What the two mean teachers are made of: input noise, ramp-up, squared difference and predictive entropy.

Shapes: `probs` and the like are (B, C, *spatial) for softmax heads and (B, R, *spatial) for region heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.special import entr

NOISE_STD = 0.1
"""Standard deviation of the input noise, in units of the normalised image; of Yu et al. (2019), as is the next."""
NOISE_LIMIT = 0.2
"""Largest noise of a voxel."""
RAMP_EXPONENT = 5.0
"""Of the sigmoid-shaped ramp-up, in all papers that use it."""


def with_noise(images: Tensor) -> Tensor:
    """Images (B, C, *spatial) with fresh Gaussian noise of `NOISE_STD`, clipped to `NOISE_LIMIT`."""
    return images + (torch.randn_like(images) * NOISE_STD).clamp_(-NOISE_LIMIT, NOISE_LIMIT)


def sigmoid_ramp(step: int, *, ramp_steps: int) -> float:
    """exp(-5 (1 - t / T)^2): 0.007 at step t = 0, 1 from T = `ramp_steps` on (Tarvainen and Valpola, 2017; Laine and Aila, 2017)."""
    return 1.0 if step >= ramp_steps else math.exp(-RAMP_EXPONENT * (1 - step / ramp_steps) ** 2)


def squared_difference(probs: Tensor, reference: Tensor, certain: Tensor | None = None) -> Tensor:
    """Mean of (p - p')^2 over voxels and outputs.

    Args:
        probs: p, the student's.
        reference: p', the teacher's, of the same shape.
        certain: voxels that count, bool (B, 1, *spatial), or one map per region; None: all.

    Returns:
        Scalar; 0, with a graph, where no voxel counts.
    """
    squared = (probs - reference).square()
    if certain is None:
        return squared.mean()
    certain = certain.expand_as(squared)
    return torch.where(certain, squared, 0.0).sum() / certain.sum().clamp_min(1)


def predictive_entropy(probs: Tensor, *, has_regions: bool) -> Tensor:
    """Entropy of each voxel's prediction in nats: (B, 1, *spatial), for regions that of each one's two sides, (B, R, *spatial)."""
    entropy: Tensor = entr(probs) + entr(1 - probs) if has_regions else entr(probs).sum(1, keepdim=True)
    return entropy


def greatest_entropy(num_outputs: int, *, has_regions: bool) -> float:
    """Entropy of a uniform guess in nats: log C, for regions log 2."""
    return math.log(2 if has_regions else num_outputs)
