"""Terms that steps measure beside nnU-Net's loss: one value per epoch, in nnU-Net's own log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnunet_ssl.training.distributed import gather


class EpochTerms:
    """Names and lengths of the terms of a training.

    nnU-Net's logger wants every key known before a checkpoint is loaded and exactly one value per epoch, whatever the phase; what was not
    measured is NaN.

    Args:
        lengths: 1 for a scalar, else the number of entries of a list (one per network output).
    """

    def __init__(self, lengths: Mapping[str, int]) -> None:
        self.lengths = dict(lengths)

    def register(self, logger: Any) -> None:
        """Make the keys known to nnU-Net's logger."""
        for name in self.lengths:
            logger.local_logger.my_fantastic_logging.setdefault(name, [])

    def complete(self, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """A step's outputs with every term in them, as arrays of the terms' lengths."""
        terms = {name: _as_array(outputs.get(name, np.nan), length) for name, length in self.lengths.items()}
        return {**outputs, **terms}

    def epoch_means(self, outputs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Mean of every term over the steps of an epoch and over all processes, NaN left out; floats, and lists of floats."""
        sums = {name: _finite_sums([o[name] for o in outputs]) for name in self.lengths}
        gathered = gather(sums)
        means: dict[str, Any] = {}
        for name, length in self.lengths.items():
            total = np.sum([g[name] for g in gathered], axis=0)
            mean = np.full(length, np.nan)
            np.divide(total[0], total[1], out=mean, where=total[1] > 0)
            means[name] = mean.tolist() if length > 1 else float(mean[0])
        return means


def to_host(terms: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    """Scalars and vectors of a loss as arrays, brought from the device in one transfer."""
    if not terms:
        return {}
    values = torch.cat([value.float().reshape(-1) for value in terms.values()]).cpu().numpy()
    ends = np.cumsum([value.numel() for value in terms.values()])
    return dict(zip(terms, np.split(values, ends[:-1]), strict=True))


def _as_array(value: Any, length: int) -> NDArray[np.float64]:
    return np.broadcast_to(np.asarray(value, dtype=np.float64).reshape(-1), (length,)).copy()


def _finite_sums(values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """(2, length): sums of the finite values, and how many there were."""
    stacked = np.stack([np.asarray(v, dtype=np.float64).reshape(-1) for v in values])
    finite = np.isfinite(stacked)
    return np.stack([np.where(finite, stacked, 0).sum(0), finite.sum(0)])
