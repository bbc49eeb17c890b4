"""Cross-set CutMix: a box of a labelled sample, pasted into a pool sample with everything that belongs to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_ssl.training.extra_channels import CODE_IGNORED, CODE_POOL, samples_from_pool

SIDES = (1 / 4, 2 / 3)
"""Shortest and longest side of a box, as a share of the patch's."""

Box = tuple[tuple[int, int], ...]
"""Half-open range of voxels along every axis of the full-resolution patch."""


class CutMix:
    """Mixes the batches of a `StageDataLoader`.

    The pool sample stays a pool sample. Inside the box it carries the manual label with full confidence; where the labelled sample had
    padding there is nothing to learn.

    Args:
        probability: of a pool sample to receive a box.
        generator: source of all draws.
    """

    def __init__(self, *, probability: float, generator: np.random.Generator) -> None:
        self.probability = probability
        self._generator = generator

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Mix a batch in place.

        Args:
            batch: nnU-Net's batch on the CPU: `data` (B, C, *spatial), and `target`, the segmentations at every scale followed by the extra
                channels at the same scales.

        Returns:
            The same batch.
        """
        data, target = batch["data"], batch["target"]
        extras = target[len(target) // 2 :]
        from_pool = samples_from_pool(extras[0])
        labelled = torch.nonzero(~from_pool).flatten().tolist()
        if not labelled:
            return batch
        for receiver in torch.nonzero(from_pool).flatten().tolist():
            if self._generator.random() < self.probability:
                source = labelled[int(self._generator.integers(len(labelled)))]
                paste_box(data, target, source=source, receiver=receiver, box=self.draw_box(data.shape[2:]))
        return batch

    def draw_box(self, shape: Sequence[int]) -> Box:
        """A random box inside a patch of that shape."""
        box = []
        for length in shape:
            side = min(length, max(1, round(length * self._generator.uniform(*SIDES))))
            start = int(self._generator.integers(0, length - side + 1))
            box.append((start, start + side))
        return tuple(box)


def paste_box(data: Tensor, target: Sequence[Tensor], *, source: int, receiver: int, box: Box) -> None:
    """Copy a box from one sample to another in place, in the image, the segmentations and the extra channels at every scale.

    Args:
        data: (B, C, *spatial).
        target: segmentations at every scale, then extra channels at the same scales.
        source: index of the labelled sample.
        receiver: index of the pool sample.
        box: the box at full resolution.
    """
    full = data.shape[2:]
    at_full = (slice(None), *(slice(*r) for r in box))
    data[receiver][at_full] = data[source][at_full]
    for index, tensor in enumerate(target):
        region = (slice(None), *(slice(*_at_scale(r, n, m)) for r, n, m in zip(box, full, tensor.shape[2:], strict=True)))
        pasted = tensor[source][region].clone()
        if index >= len(target) // 2:
            # labelled voxels (1) become pool voxels (2), padding (0) becomes ignored (3)
            pasted[0] = torch.where(pasted[0] > 0, CODE_POOL, CODE_IGNORED)
        tensor[receiver][region] = pasted


def _at_scale(voxels: tuple[int, int], full: int, scaled: int) -> tuple[int, int]:
    """Range of a down-sampled axis whose voxels were sampled (nearest-exact) from a range of the full axis."""
    sampled_from = np.floor((np.arange(scaled) + 0.5) * full / scaled)
    return int(np.searchsorted(sampled_from, voxels[0])), int(np.searchsorted(sampled_from, voxels[1]))
