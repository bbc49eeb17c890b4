"""The epochs of one training, from the log that nnU-Net keeps in its checkpoints."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nnunet_ssl.errors import NnsslError
from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.nnunet_api.checkpoints import load_checkpoint
from nnunet_ssl.nnunet_api.training_state import checkpoint_to_open

logger = logging.getLogger(__name__)

_PER_CLASS = "dice_per_class_or_region"


@dataclass(frozen=True)
class TrainingLog:
    """What a training wrote down, one value per epoch; NaN where an epoch did not measure it."""

    values: Mapping[str, tuple[float, ...]]
    """Scalars by nnU-Net's (or our) key, for instance `val_losses`, `mean_fg_dice`, `loss_high`."""
    class_dice: tuple[tuple[float, ...], ...]
    """Pseudo Dice per class (region): one tuple over the epochs for every class."""
    is_finished: bool
    """Whether the training has ended; otherwise this is its state at the last checkpoint."""

    @property
    def num_epochs(self) -> int:
        """Epochs done."""
        return len(self.values.get("train_losses", ()))

    @property
    def minutes(self) -> float:
        """Time spent in epochs; interruptions do not count."""
        pairs = zip(self.values.get("epoch_start_timestamps", ()), self.values.get("epoch_end_timestamps", ()), strict=False)
        return sum(end - start for start, end in pairs) / 60

    @property
    def best_val_loss(self) -> float | None:
        """Lowest validation loss of an epoch."""
        return min(_finite(self.values.get("val_losses", ())), default=None)

    @property
    def best_pseudo_dice(self) -> float | None:
        """Highest mean foreground Dice on the validation patches of an epoch, nnU-Net's pseudo Dice."""
        return max(_finite(self.values.get("mean_fg_dice", ())), default=None)


def read_training_log(model: ModelLocation, fold: int | str) -> TrainingLog | None:
    """The log of a training that has ended or is under way; None before its first checkpoint.

    A checkpoint that cannot be read (nnU-Net may be writing it) is warned of and counts as none.
    """
    if (path := checkpoint_to_open(model, fold)) is None:
        return None
    try:
        content = load_checkpoint(path).get("logging")
    except NnsslError as error:
        logger.warning("what the training of %s wrote down is not shown: %s", model.name, error)
        return None
    return training_log(content, is_finished=path == model.checkpoint(fold)) if isinstance(content, dict) else None


def training_log(content: Mapping[str, list[Any]], *, is_finished: bool) -> TrainingLog:
    """Sort the entries of nnU-Net's logging dictionary into numbers and lists per class.

    Args:
        content: `checkpoint['logging']`: a list over the epochs for every key.
        is_finished: whether it comes from the final checkpoint.
    """
    scalars = {key: tuple(map(float, values)) for key, values in content.items() if not any(_is_list(v) for v in values)}
    per_class = [tuple(map(float, epoch)) for epoch in content.get(_PER_CLASS, ()) if _is_list(epoch)]
    scalars.pop(_PER_CLASS, None)
    return TrainingLog(scalars, tuple(zip(*per_class, strict=True)), is_finished)


def _is_list(value: Any) -> bool:
    return hasattr(value, "__len__")


def _finite(values: Iterable[float]) -> list[float]:
    return [v for v in values if math.isfinite(v)]
