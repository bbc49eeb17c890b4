"""One mirroring for all samples of a batch, so that what CutMix pastes has the orientation of its surroundings."""

from __future__ import annotations

from typing import Any

from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform


class BatchMirror(MirrorTransform):
    """nnU-Net's mirroring, drawn when the loader begins a batch instead of for every sample.

    Each sample is mirrored along each axis as often as before, but together with the others of its batch. Were they mirrored apart, a box
    pasted from one of them into another would show anatomy the wrong way round in seven of eight cases, with nothing around it that tells.
    """

    def __init__(self, allowed_axes: tuple[int, ...]) -> None:
        super().__init__(allowed_axes)
        self.draw()

    def draw(self) -> None:
        """Choose the axes of the next samples."""
        self._axes: list[int] = super().get_parameters()["axes"]

    def get_parameters(self, **data_dict: Any) -> dict[str, Any]:
        """The axes of the batch."""
        return {"axes": self._axes}


def mirrored_by_batch(transforms: list[BasicTransform]) -> list[BasicTransform]:
    """The transforms, with nnU-Net's mirroring, if it is among them, drawn for the whole batch."""
    return [BatchMirror(transform.allowed_axes) if type(transform) is MirrorTransform else transform for transform in transforms]


def draw_mirrors(pipeline: Any) -> None:
    """Begin a batch: draw every `BatchMirror` of a composed pipeline (or None, which has none)."""
    for transform in getattr(pipeline, "transforms", ()):
        if isinstance(transform, BatchMirror):
            transform.draw()
