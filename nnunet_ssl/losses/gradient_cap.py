"""Keeps unlearning in its place: the gradient of R_low at the logits is held to a fraction of that of L_sup."""

from __future__ import annotations

import torch
from torch import Tensor

_HALF_PRECISION_SCALE = 2.0**14
"""Applied to both losses alike: gradients of a mean over a million voxels vanish in float16, in which they arrive at float16 logits."""
_SMALLEST_NORM = 1e-12


def unlearning_scale(sup_loss: Tensor, low_loss: Tensor, logits: Tensor, *, max_ratio: float) -> tuple[Tensor, Tensor]:
    """Factor for R_low that keeps its gradient at most `max_ratio` times that of L_sup.

    Both losses keep their graphs, so that the training step can still run backward through them.

    Args:
        sup_loss: weighted L_sup, scalar.
        low_loss: weighted R_low, scalar.
        logits: full-resolution logits (B, H, *spatial) of the whole batch that both were computed from.
        max_ratio: the largest ratio of the two gradient norms.

    Returns:
        scale = min(1, max_ratio * |dL_sup/dlogits| / |dR_low/dlogits|) in [0, 1], and the ratio |dR_low/dlogits| / |dL_sup/dlogits| before
        scaling; both detached scalars. Without a gradient of R_low they are 1 and 0. Where L_sup has none, as with labelled samples of
        nothing but the ignore label, there is nothing to measure against, and both are NaN.
    """
    sup, low = _gradient_norm(sup_loss, logits), _gradient_norm(low_loss, logits)
    scale = torch.where(low > 0, max_ratio * sup / low.clamp_min(_SMALLEST_NORM), torch.ones_like(low)).clamp(max=1.0)
    ratio = low / sup.clamp_min(_SMALLEST_NORM)
    # an overflow in half precision says nothing about the ratio: leave unlearning out of this step
    known = torch.isfinite(sup) & torch.isfinite(low)
    nothing = (sup == 0) & (low > 0)
    scale, ratio = (torch.where(known, value, 0.0).masked_fill(nothing, torch.nan) for value in (scale, ratio))
    return scale, ratio


def _gradient_norm(loss: Tensor, logits: Tensor) -> Tensor:
    """Euclidean norm of a loss's gradient at the logits, times the common scale; 0 if the loss does not depend on them."""
    if not loss.requires_grad:
        return torch.zeros((), device=logits.device)
    gradients: tuple[Tensor | None, ...] = torch.autograd.grad(loss * _HALF_PRECISION_SCALE, logits, retain_graph=True, allow_unused=True)
    gradient = torch.zeros((), device=logits.device) if gradients[0] is None else gradients[0]
    norm: Tensor = torch.linalg.vector_norm(gradient.detach().float())
    return norm
