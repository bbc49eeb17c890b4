"""Uncertainty distillation: the log-variance head learns, in one pass, the variance over many samples (paper, section III-2)."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_ssl.config import DistillationLoss
from nnunet_ssl.errors import ConfigError

VARIANCE_FLOOR = 1e-4
"""Smallest variance whose logarithm the `paper` form regresses."""


def distillation_loss(log_variance: Tensor, variance: Tensor, *, kind: str, weight: Tensor) -> Tensor:
    """Loss of the uncertainty head, weighted mean over voxels.

    Args:
        log_variance: U, the head's output, (B, 1, *spatial) or (B, R, *spatial).
        variance: v over the samples, same shape, in [0, 1/4].
        kind: `variance`: v exp(-U) + U, minimised by the log of the mean variance. `paper`: squared error to log v with v at least 1e-4,
            minimised by the mean log-variance, which is too low a variance the fewer the samples.
        weight: non-negative, same shape; see `distillation_weights`.

    Returns:
        Scalar, float32; exactly 0, with a graph, where all weights are 0.

    Raises:
        ConfigError: on an unknown kind.
        ValueError: if the shapes differ.
    """
    if not log_variance.shape == variance.shape == weight.shape:
        found = ", ".join(str(tuple(t.shape)) for t in (log_variance, variance, weight))
        raise ValueError(f"log-variance, variance and weight have shapes {found}; the three must be equal.")
    with torch.autocast(device_type=log_variance.device.type, enabled=False):
        predicted, observed, weight = log_variance.float(), variance.float(), weight.float()
        if kind == "variance":
            per_voxel = observed * torch.exp(-predicted) + predicted
        elif kind == "paper":
            per_voxel = (predicted - observed.clamp_min(VARIANCE_FLOOR).log()).square()
        else:
            raise ConfigError(f"distillation loss is {kind!r}; expected one of {', '.join(get_args(DistillationLoss))}.")
        return torch.where(weight > 0, weight * per_voxel, 0.0).sum() / weight.sum().clamp_min(1e-12)


def distillation_weights(band: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """Voxel weights that give half of a sample's weight to its foreground band, where nearly all of the variance is.

    Args:
        band: (B, H, *spatial) bool with H = 1, or R for regions; see `patch_foreground_band`.
        valid: (B, 1, *spatial) bool, the voxels that exist; all by default.

    Returns:
        Weights of the same shape, float32. Each sample and channel has a total of 1, half of it inside the band; all of it outside
        (inside) where the band is empty (everything), and none where no voxel is valid.
    """
    valid = torch.ones_like(band) if valid is None else valid.expand_as(band)
    dims = list(range(2, band.ndim))
    inside, outside = (band & valid).float(), (~band & valid).float()
    n_inside, n_outside = inside.sum(dims, keepdim=True), outside.sum(dims, keepdim=True)
    halves = (n_inside > 0).float() + (n_outside > 0).float()
    each = inside / n_inside.clamp_min(1) + outside / n_outside.clamp_min(1)
    return each / halves.clamp_min(1)


def patch_foreground_band(foreground: Tensor, *, radius: int = 3) -> Tensor:
    """Foreground dilated by a radius in voxels along every axis (a cube), as `confidence.foreground_band` does for whole cases.

    Args:
        foreground: (B, H, *spatial) bool, one to three spatial axes.
        radius: in voxels; 0 returns the foreground.
    """
    spatial = foreground.ndim - 2
    pool = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[spatial - 1]
    band = foreground.float()
    for axis in range(spatial):
        size = [2 * radius + 1 if a == axis else 1 for a in range(spatial)]
        padding = [radius if a == axis else 0 for a in range(spatial)]
        band = pool(band, size, stride=1, padding=padding)
    return band > 0
