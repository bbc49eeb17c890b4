"""Cases of a stage, labelled and from the pool, as nnU-Net's loader wants them, with extra channels stacked onto the segmentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nnunet_ssl.errors import WRITE_AGAIN, StateError
from nnunet_ssl.nnunet_api.array_file import open_array
from nnunet_ssl.training.extra_channels import ExtraLayout


class SegmentationStack:
    """A segmentation with extra channels behind it, read only where it is cropped.

    It has what nnU-Net's `crop_and_pad_nd` asks of an array: `shape`, `ndim`, `dtype` and slicing.

    Args:
        segmentation: (1, X, Y, Z) array or file-backed array.
        num_extras: channels that `read_extras` gives.
        read_extras: makes the extra channels of a crop from the segmentation's crop and the slices it was cut with.
    """

    def __init__(
        self,
        segmentation: Any,
        *,
        num_extras: int,
        read_extras: Callable[[NDArray[np.int16], tuple[slice, ...]], NDArray[np.int16]],
    ) -> None:
        self._segmentation = segmentation
        self._read_extras = read_extras
        self.shape: tuple[int, ...] = (segmentation.shape[0] + num_extras, *segmentation.shape[1:])
        self.ndim = len(self.shape)
        self.dtype = np.dtype(np.int16)

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[np.int16]:
        segmentation = np.asarray(self._segmentation[index]).astype(np.int16, copy=False)
        return np.concatenate([segmentation, self._read_extras(segmentation, index)])


class StageDataset:
    """nnU-Net's dataset of a stage's training cases; `load_case` returns the segmentation with its extra channels.

    Args:
        base: nnU-Net's own dataset of the same cases.
        targets_folder: targets files `<case>.b2nd` of the pool's cases.
        layout: the stage's extra channels.
        pool_cases: which of the cases come from the pool; the others are labelled.
        labelled_share: share of each batch that the loader draws from labelled cases.
    """

    def __init__(self, base: Any, *, targets_folder: Path, layout: ExtraLayout, pool_cases: Sequence[str], labelled_share: float) -> None:
        self._base = base
        self._targets_folder = targets_folder
        self._layout = layout
        self._share = torch.tensor([labelled_share], dtype=torch.float64).share_memory_()  # type: ignore[no-untyped-call]
        self._pool_cases = set(pool_cases)
        self.identifiers: list[str] = list(base.identifiers)
        self.labelled = np.array([c for c in self.identifiers if c not in self._pool_cases])
        """Labelled cases, sorted."""
        self.pool = np.array([c for c in self.identifiers if c in self._pool_cases])
        """Cases of the pool, sorted."""

    @property
    def labelled_share(self) -> float:
        """Share of labelled samples; it lies in shared memory, so that a change reaches loaders that already run in other processes."""
        return float(self._share.item())

    @labelled_share.setter
    def labelled_share(self, share: float) -> None:
        self._share.fill_(share)

    def __getitem__(self, identifier: str) -> tuple[Any, SegmentationStack, Any, dict[str, Any]]:
        return self.load_case(identifier)

    def load_case(self, identifier: str) -> tuple[Any, SegmentationStack, Any, dict[str, Any]]:
        """One case, in nnU-Net's order: image, segmentation (here the stack), segmentation of a cascade's previous stage, properties.

        Raises:
            StateError: if a pool case's targets file is missing, damaged or does not fit its image.
        """
        data, segmentation, previous, properties = self._base.load_case(identifier)
        from_pool = identifier in self._pool_cases
        read_extras = self._from_file(identifier, segmentation.shape) if from_pool else self._from_label
        stack = SegmentationStack(segmentation, num_extras=self._layout.num_channels, read_extras=read_extras)
        return data, stack, previous, properties

    def _from_label(self, segmentation: NDArray[np.int16], _: tuple[slice, ...]) -> NDArray[np.int16]:
        return self._layout.of_manual_label(segmentation)

    def _from_file(self, identifier: str, shape: tuple[int, ...]) -> Callable[[NDArray[np.int16], tuple[slice, ...]], NDArray[np.int16]]:
        path = self._targets_folder / f"{identifier}.b2nd"
        if not path.is_file():
            raise StateError(f"the targets of pool case '{identifier}' are missing ({path}); {WRITE_AGAIN}")
        try:
            targets = open_array(path, is_mapped=True)
        except (ValueError, RuntimeError, OSError) as error:
            raise StateError(f"the targets of pool case '{identifier}' cannot be read ({path}: {error}); {WRITE_AGAIN}") from error
        expected = (self._layout.num_channels, *shape[1:])
        if targets.shape != expected:
            raise StateError(f"targets of pool case '{identifier}' have shape {targets.shape}, expected {expected}; {WRITE_AGAIN}")
        return lambda _, index: np.asarray(targets[index])
