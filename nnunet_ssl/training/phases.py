"""A training's phases one after another, each with its own learning rate schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch.optim import Optimizer

SUPERVISED = "supervised"
"""The teacher's first phase."""
SEMI_SUPERVISED = "semi-supervised"
"""The student's phase on labelled and pool cases."""
FINE_TUNING = "fine-tuning"
"""The student's phase on manual labels alone."""
DISTILLATION = "uncertainty distillation"
"""The phase in which only the uncertainty head learns."""

MOST_EPOCHS_UNSAVED = 50
"""nnU-Net's own interval between checkpoints; short trainings save more often."""


@dataclass(frozen=True)
class Phase:
    """Consecutive epochs of one kind."""

    name: str
    length: int
    """Epochs."""
    initial_lr: float
    """Learning rate of the first epoch; it falls by nnU-Net's polynomial towards 0 at the end of the phase."""


class PhaseSchedule:
    """Which phase an epoch belongs to.

    Args:
        phases: in order; those of length 0 are left out.
    """

    def __init__(self, phases: Sequence[Phase]) -> None:
        self.phases = tuple(p for p in phases if p.length > 0)
        starts = [0]
        for phase in self.phases:
            starts.append(starts[-1] + phase.length)
        self._spans = tuple(pairwise(starts))

    @property
    def num_epochs(self) -> int:
        """Epochs of all phases together."""
        return self._spans[-1][1]

    def index(self, epoch: int) -> int:
        """Index of the phase of an epoch; epochs past the end belong to the last phase."""
        return next((i for i, (_, end) in enumerate(self._spans) if epoch < end), len(self.phases) - 1)

    def at(self, epoch: int) -> Phase:
        """The phase of an epoch."""
        return self.phases[self.index(epoch)]

    def first_epoch(self, epoch: int) -> int:
        """First epoch of the phase that an epoch belongs to."""
        return self._spans[self.index(epoch)][0]

    def is_last_of_phase(self, epoch: int) -> bool:
        """Whether another phase, or nothing, follows the epoch."""
        return epoch + 1 == self._spans[self.index(epoch)][1]

    @property
    def save_every(self) -> int:
        """Interval between checkpoints: nnU-Net's, or a tenth of a short training."""
        return max(1, min(MOST_EPOCHS_UNSAVED, self.num_epochs // 10))


class PhasedPolyLRScheduler(PolyLRScheduler):
    """nnU-Net's polynomial schedule, begun anew in every phase.

    nnU-Net's own has one length: it turns complex past it, and overwrites every parameter group's rate.
    """

    def __init__(self, optimizer: Optimizer, schedule: PhaseSchedule) -> None:
        self.schedule = schedule
        super().__init__(optimizer, schedule.phases[0].initial_lr, schedule.phases[0].length)

    def step(self, current_step: int | None = None) -> None:
        """Set the learning rate of an epoch; without one, nnU-Net's constructor asks for that of the first."""
        epoch = max(0, current_step or 0)
        phase = self.schedule.at(epoch)
        self.initial_lr, self.max_steps = phase.initial_lr, phase.length
        super().step(min(epoch - self.schedule.first_epoch(epoch), phase.length))
