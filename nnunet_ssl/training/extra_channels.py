"""Code, confidence and class probabilities that travel with the segmentation from the targets file to the loss.

They are stored, cropped and collated as int16 (probabilities times 10000, as on disk) and are float only while they are interpolated. A
sample's extra channels are, in this order: one code, C confidences, Q class probabilities (Q = 0, or one per network output).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from nnunet_ssl.confidence.quantise import SHARE_STEPS
from nnunet_ssl.data.pseudo_case import CODE_IGNORED, CODE_POOL
from nnunet_ssl.errors import WRITE_AGAIN, StateError

CODE_PADDING = 0
"""Labelled sample: padding, outside the image, or nnU-Net's ignore label."""
CODE_LABELLED = 1
"""Labelled sample: a voxel with a manual label."""

__all__ = [
    "CODE_IGNORED",
    "CODE_LABELLED",
    "CODE_PADDING",
    "CODE_POOL",
    "ExtraLayout",
    "PackExtraChannels",
    "SplitExtraChannels",
    "samples_from_pool",
]

_TINY_VALIDITY = 1e-3
"""Guards the division by interpolated validity; voxels below 0.5 are discarded anyway."""


def samples_from_pool(extra: Tensor) -> Tensor:
    """Which samples of a batch come from the pool, (B,) bool, by the codes in the extra channels (B, 1 + C + Q, *spatial)."""
    return (extra[:, 0] >= CODE_POOL).flatten(1).any(1)


@dataclass(frozen=True, kw_only=True)
class ExtraLayout:
    """Which extra channels a stage has, and how those of a labelled case follow from its manual label."""

    num_confidence: int
    """C: 1, or one per region."""
    num_probabilities: int
    """Q: 0, or one per network output."""
    heads: tuple[tuple[int, ...], ...]
    """Label values that belong to each network output; several where outputs are regions."""
    ignore_label: int | None = None
    """nnU-Net's ignore label, if the dataset has one."""

    @classmethod
    def for_stage(cls, label_manager: Any, num_confidence: int, num_probabilities: int) -> ExtraLayout:
        """Layout of a stage from nnU-Net's label manager and the channel counts in the stage's sidecar.

        Raises:
            StateError: if the counts do not fit the dataset's labels.
        """
        groups = label_manager.foreground_regions if label_manager.has_regions else label_manager.all_labels
        heads = tuple(tuple(int(v) for v in g) if isinstance(g, tuple | list) else (int(g),) for g in groups)
        expected = len(heads) if label_manager.has_regions else 1
        if num_confidence != expected or num_probabilities not in (0, len(heads)):
            raise StateError(
                f"the stage has {num_confidence} confidence and {num_probabilities} probability channels, its labels ask for {expected} "
                f"and 0 or {len(heads)}; {WRITE_AGAIN}"
            )
        ignore = label_manager.ignore_label
        return cls(num_confidence=num_confidence, num_probabilities=num_probabilities, heads=heads, ignore_label=ignore)

    @property
    def num_channels(self) -> int:
        """Code, confidence and probability channels together."""
        return 1 + self.num_confidence + self.num_probabilities

    def of_manual_label(self, segmentation: NDArray[np.int16]) -> NDArray[np.int16]:
        """Extra channels of a labelled case.

        Args:
            segmentation: (1, X, Y, Z) label map; -1 outside the nonzero mask counts as background.

        Returns:
            (num_channels, X, Y, Z): code 1 (0 under the ignore label), full confidence, and one-hot (per region) probabilities.
        """
        labels = np.maximum(segmentation[0], 0)
        extras = np.full((self.num_channels, *labels.shape), SHARE_STEPS, dtype=np.int16)
        extras[0] = CODE_LABELLED if self.ignore_label is None else np.where(labels == self.ignore_label, CODE_PADDING, CODE_LABELLED)
        for channel, values in enumerate(self.heads[: self.num_probabilities], start=1 + self.num_confidence):
            extras[channel] = np.isin(labels, values) * np.int16(SHARE_STEPS)
        return extras


class SplitExtraChannels(BasicTransform):
    """First transform: moves the extra channels from behind the segmentation to `regression_target`, which is interpolated as float.

    `regression_target` becomes (1 + C + Q, *spatial): validity in {0, 1}, then confidence and probabilities times validity, so that the
    zeros of padding are recognisable and weightless. `data_dict["pool"]` tells whether the sample comes from the pool.

    With a threshold per class, a last channel says on which side of its own class's threshold each voxel lies (times validity): between two
    classes a confidence is interpolated from both, and would be compared with the threshold of one.

    Args:
        num_channels: extra channels behind the segmentation's first channel; what follows them (a cascade's previous stage) stays.
        thresholds: tau per class, or None where all voxels have the same, or regions have one each.
    """

    def __init__(self, *, num_channels: int, thresholds: Sequence[float] | None = None) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.thresholds = None if thresholds is None else _in_steps(thresholds)

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        stacked: Tensor = data_dict["segmentation"]
        code, values = stacked[1], stacked[2 : 1 + self.num_channels]
        valid = ((code == CODE_LABELLED) | (code == CODE_POOL)).float()
        data_dict["pool"] = bool((code >= CODE_POOL).any())
        parts = [valid[None], values.float().clamp_(min=0) / SHARE_STEPS * valid]
        if self.thresholds is not None:
            parts.append((values[:1] >= _threshold_of(stacked[:1], self.thresholds)) * valid)
        data_dict["regression_target"] = torch.cat(parts)
        data_dict["segmentation"] = torch.cat([stacked[:1], stacked[1 + self.num_channels :]])
        return data_dict


class PackExtraChannels(BasicTransform):
    """Last transform: packs the extra channels behind the segmentation, at every deep-supervision scale of it.

    A voxel is valid where its interpolated validity exceeds one half; its values are those of the valid voxels it was interpolated from.
    With a threshold per class it stays on the side of it on which most of those voxels were, at the threshold or just below.
    Leaves `[seg_0, ..., seg_n-1, extra_0, ..., extra_n-1]` under `segmentation`, the extras int16.

    Args:
        thresholds: as for `SplitExtraChannels`.

    Raises:
        StateError: if a transform has changed the segmentation's shape and not that of the extra channels.
    """

    def __init__(self, *, thresholds: Sequence[float] | None = None) -> None:
        super().__init__()
        self.thresholds = None if thresholds is None else _in_steps(thresholds)

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        interpolated: Tensor = data_dict.pop("regression_target")
        validity = interpolated[:1]
        valid = validity > 0.5
        values = (interpolated[1:] / validity.clamp(min=_TINY_VALIDITY)).clamp_(0, 1) * valid
        inside, outside = (CODE_POOL, CODE_IGNORED) if data_dict["pool"] else (CODE_LABELLED, CODE_PADDING)
        segmentations = data_dict["segmentation"]
        if not isinstance(segmentations, list):
            segmentations = [segmentations]
        stored = (values * SHARE_STEPS).round_()
        if self.thresholds is not None:
            stored, is_high = stored[:-1], values[-1:] > 0.5
            threshold = _threshold_of(segmentations[0][:1], self.thresholds)
            stored[:1] = torch.where(is_high, stored[:1].maximum(threshold), stored[:1].minimum(threshold - 1)) * valid
        extras = torch.cat([torch.where(valid, float(inside), float(outside)), stored])
        shape, shape_of_extras = tuple(segmentations[0].shape[1:]), tuple(extras.shape[1:])
        if shape_of_extras != shape:
            raise StateError(
                f"a transform of the training made the segmentation {shape} and 'regression_target', which has the pool's confidence and "
                f"probabilities, {shape_of_extras}: its _apply_to_regr_target has to do what its _apply_to_segmentation does."
            )
        data_dict["segmentation"] = segmentations + [_at_shape(extras, s.shape[1:]) for s in segmentations]
        return data_dict


def _in_steps(thresholds: Sequence[float]) -> Tensor:
    """The smallest stored confidence that reaches each threshold."""
    return torch.tensor([math.ceil(tau * SHARE_STEPS - 1e-6) for tau in thresholds], dtype=torch.float32)


def _threshold_of(labels: Tensor, thresholds: Tensor) -> Tensor:
    """The threshold of every voxel's class; an ignore label, which has none, is never looked at."""
    return thresholds[labels.long().clamp(0, len(thresholds) - 1)]


def _at_shape(extras: Tensor, shape: torch.Size) -> Tensor:
    """Sample with nearest-exact, as nnU-Net samples segmentations for deep supervision."""
    if extras.shape[1:] != shape:
        extras = interpolate(extras[None], tuple(shape), mode="nearest-exact")[0]
    return extras.to(torch.int16)
