"""Run, interrupt and compare trainings of seconds."""

from __future__ import annotations

from typing import Any

import pytest
import torch


class InterruptedTrainingError(Exception):
    """Ends a training the way a killed process would."""


def run(trainer: Any, *, until_epoch: int | None = None) -> Any:
    """Train; with `until_epoch`, to the end of that epoch and no further."""
    if until_epoch is None:
        trainer.run_training()
        return trainer
    start = trainer.on_epoch_start

    def stop_or_start() -> None:
        if trainer.current_epoch == until_epoch:
            raise InterruptedTrainingError
        start()

    trainer.on_epoch_start = stop_or_start
    with pytest.raises(InterruptedTrainingError):
        trainer.run_training()
    return trainer


def log(trainer: Any) -> dict[str, list[Any]]:
    """What nnU-Net's logger has, one value per epoch."""
    values: dict[str, list[Any]] = trainer.logger.local_logger.my_fantastic_logging
    return values


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two states hold the same names and values."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
