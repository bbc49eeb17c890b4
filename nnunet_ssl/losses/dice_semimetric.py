"""Dice semimetric loss: soft Dice that also works for soft targets (Wang et al., 2023, "Dice Semimetric Losses").

Soft Dice is minimised by pushing every probability to 0 or 1, whatever the target; this form is minimised by the target itself, and is
the very same number where the target is hard.
"""

from __future__ import annotations

import torch
from torch import Tensor


def dice_semimetric_loss(probs: Tensor, targets: Tensor, *, mask: Tensor, batch_dice: bool) -> Tensor:
    """1 - (|x| + |y| - |x - y|) / (|x| + |y|) per class over the masked voxels, averaged over the classes that occur.

    A class occurs where the target or the prediction gives it a probability of at least 1/2 at any masked voxel. One that is in neither
    would add a constant or noise.

    Args:
        probs: x, (B, K, *spatial) in [0, 1]; of softmax heads the foreground classes only.
        targets: y, (B, K, *spatial) in [0, 1], hard or soft.
        mask: (B, 1, *spatial) or (B, K, *spatial) bool, the voxels that count.
        batch_dice: sum over all samples before the ratio is taken, instead of one ratio per sample and then their mean.

    Returns:
        Scalar in [0, 1], float32; exactly 0, with a graph, where nothing occurs.
    """
    dims = [0, *range(2, probs.ndim)] if batch_dice else list(range(2, probs.ndim))
    x = torch.where(mask, probs.float(), 0.0)
    y = torch.where(mask, targets.float(), 0.0)
    if x.numel() == 0:
        return x.sum()
    # 1 - (|x| + |y| - |x - y|) / (|x| + |y|) in its shorter form, which does not lose digits near 0
    ratio = (x - y).abs().sum(dims) / (x.sum(dims) + y.sum(dims)).clamp_min(torch.finfo(torch.float32).eps)
    occurs = torch.maximum(x.detach(), y).amax(dims) >= 0.5
    per_class = torch.where(occurs, ratio, 0.0)
    return (per_class.sum(-1) / occurs.sum(-1).clamp_min(1)).mean()
