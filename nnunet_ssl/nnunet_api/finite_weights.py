"""Weights of a training that has diverged predict nothing; they are refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from nnunet_ssl.errors import StateError


def require_finite_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """See that the weights of a checkpoint are numbers.

    Raises:
        StateError: naming the first one that is not.
    """
    for name, value in weights.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise StateError(
                f"{path} holds NaN or infinite weights (the first in '{name}'): its training has diverged; train that model again with a "
                "lower learning rate."
            )
