"""A loader whose batches hold a wanted share of labelled samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet_trainer_module
from numpy.typing import NDArray

_ROUNDING = 1e-9
"""0.29 times 100 is a little less than 29."""
_TURN = (math.sqrt(5) - 1) / 2
"""Multiples of the golden ratio, less their whole part, fill [0, 1) evenly from the first few on."""


def labelled_in_batch(batch_size: int, share: float, draw: float) -> int:
    """How many samples of a batch are labelled.

    Args:
        batch_size: samples in the batch.
        share: wanted share of labelled samples, in (0, 1]; 1 means all.
        draw: number in [0, 1), which decides where the share is no whole number of samples.

    Returns:
        The whole number below or above `batch_size` times the share, with the chances that give the share on average: half of a batch of
        two is one sample in every batch, three quarters are one sample or two.
    """
    wanted = batch_size * share
    certain = math.floor(wanted + _ROUNDING)
    return certain + int(draw < wanted - certain)


def share_of_process(share: float, *, rank: int, processes: int, epoch: int) -> float:
    """The labelled share of a process that draws a single sample, so that all processes together keep the share over the epochs.

    In each epoch some processes draw labelled cases alone and the others cases of the pool. They take turns, because nnU-Net forces
    foreground by process, which must not single out one kind.

    Args:
        share: wanted share of labelled samples over all processes, in (0, 1]; 1 means all.
        rank: of the process, from 0.
        processes: how many train together.
        epoch: the current one.

    Returns:
        1 or 0; the share itself where the process trains alone.
    """
    if processes == 1:
        return share
    return float((rank + epoch) % processes < labelled_in_batch(processes, share, draw=epoch * _TURN % 1))


class StageDataLoader(nnUNetDataLoader):
    """nnU-Net's loader over a `StageDataset`; only the choice of cases differs."""

    def get_indices(self) -> NDArray[np.str_]:
        """Cases of the next batch, in random positions: nnU-Net forces foreground by position, which must not single out one kind."""
        dataset = self._data
        # nnU-Net reseeds NumPy's global generator, and only that one, in each of its worker processes
        num_labelled = labelled_in_batch(self.batch_size, dataset.labelled_share, np.random.random())  # noqa: NPY002
        if not len(dataset.pool):
            num_labelled = self.batch_size
        chosen = [np.random.choice(dataset.labelled, num_labelled)] if num_labelled else []  # noqa: NPY002
        if num_labelled < self.batch_size:
            chosen.append(np.random.choice(dataset.pool, self.batch_size - num_labelled))  # noqa: NPY002
        keys: NDArray[np.str_] = np.concatenate(chosen)
        np.random.shuffle(keys)  # noqa: NPY002
        return keys


@contextmanager
def loaders_built_by(build: Callable[..., Any]) -> Iterator[None]:
    """Let nnU-Net's `get_dataloaders` build its loaders with a function of ours while the block runs.

    `get_dataloaders` names the loader class directly and starts its workers before it returns, so there is no later moment to step in.
    """
    original = nnunet_trainer_module.nnUNetDataLoader
    nnunet_trainer_module.nnUNetDataLoader = build
    try:
        yield
    finally:
        nnunet_trainer_module.nnUNetDataLoader = original
