"""Soft targets of pool samples that follow the student's own moving average while the last stage lasts.

Stages refine labels from one training to the next; within the last and longest one this does the same from step to step, as the mean
teacher does (Tarvainen and Valpola, 2017), but with the evidence as its anchor: q becomes (1 - r) q + r p, with p the average's prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.nn.functional import interpolate

from nnunet_ssl.confidence.quantise import SHARE_STEPS
from nnunet_ssl.training.extra_channels import CODE_POOL, samples_from_pool
from nnunet_ssl.training.weak_view import split_views

RISE = 0.5
"""Share of the stage over which r rises: at its start the average is no better than the evidence it helped to make."""


class TargetRefresh:
    """Refreshes the batches of one stage.

    Args:
        final: r from `RISE` of the stage's steps on; 0: nothing is refreshed.
        steps: optimiser steps of the stage.
        num_confidence: confidence channels of the stage.
        is_augmented: whether pool images are augmented strongly, so that the average has to see them as they were before.
    """

    def __init__(self, *, final: float, steps: int, num_confidence: int, is_augmented: bool) -> None:
        self.final = final
        self.steps = steps
        self.num_confidence = num_confidence
        self.needs_weak_view = final > 0 and is_augmented
        """Whether the loader is to leave each image as it was before the strong augmentation behind the image."""

    def views(self, batch: dict[str, Any]) -> tuple[dict[str, Any], Tensor]:
        """The batch that the student trains on, and its images (B, C, *spatial) as the average is to see them."""
        if not self.needs_weak_view:
            return batch, batch["data"]
        strong, weak = split_views(batch["data"])
        return {**batch, "data": strong}, weak

    def share(self, step: int) -> float:
        """Get r at an optimiser step: from 0 at the first one, rising linearly."""
        return self.final * min(1.0, step / max(1.0, RISE * self.steps))

    def __call__(self, target: Sequence[Tensor], images: Tensor, *, step: int, predict: Callable[[Tensor], Tensor]) -> None:
        """Refresh the soft targets of a batch's pool samples, in place.

        Args:
            target: segmentations at every scale, then the extra channels at the same scales.
            images: (B, C, *spatial), as `views` gives them.
            step: the optimiser step about to be taken, from 0.
            predict: the average's probabilities (P, H, *spatial) of images (P, C, *spatial).
        """
        if (share := self.share(step)) == 0:
            return
        from_pool = samples_from_pool(target[len(target) // 2])
        if bool(from_pool.any()):
            mix_into_targets(target, predict(images[from_pool]), share=share, num_confidence=self.num_confidence)


def mix_into_targets(target: Sequence[Tensor], probs: Tensor, *, share: float, num_confidence: int) -> None:
    """Mix a prediction into the class probabilities of a batch's pool samples, in place and at every scale.

    Labels and confidence stay those of the evidence, and with them which voxels are learned and which are unlearned. Voxels that do not
    count (padding, ignored) are left alone, and so are those where half precision has overflowed.

    Args:
        target: segmentations at every scale, then int16 extra channels at the same scales: code, C confidences, one probability per output.
        probs: p of the batch's pool samples, in their order, (P, H, *spatial) in [0, 1], at full resolution.
        share: r in [0, 1].
        num_confidence: C.
    """
    extras = target[len(target) // 2 :]
    from_pool = samples_from_pool(extras[0])
    for extra in extras:
        of_pool = extra[from_pool]
        q = of_pool[:, 1 + num_confidence :]
        p = interpolate(probs.to(q.device), tuple(q.shape[2:]), mode="nearest-exact") * SHARE_STEPS
        mixed = q.float().lerp(p, share).round().to(q.dtype)
        counts = (of_pool[:, :1] == CODE_POOL) & p.isfinite().all(1, keepdim=True)
        of_pool[:, 1 + num_confidence :] = mixed.where(counts, q)
        extra[from_pool] = of_pool
