"""The control from scratch: one supervised training that has as many optimiser steps as all trainings of a run together."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.controls import FROM_SCRATCH, control_overlay
from nnunet_ssl.data.overlay import plans_file
from nnunet_ssl.errors import ConfigError, StateError
from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.nnunet_api.external_trainers import is_our_teacher
from nnunet_ssl.nnunet_api.load_setup import load_setup
from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.nnunet_api.training_state import checkpoint_to_open, is_trained_and_validated, training_command
from nnunet_ssl.pseudolabel.control_plans import control_plans_name, lay_control_plans
from nnunet_ssl.pseudolabel.run import Run
from nnunet_ssl.run.run_request import Step
from nnunet_ssl.run.steps import steps_until
from nnunet_ssl.run.training_process import train
from nnunet_ssl.run.training_progress import training_progress
from nnunet_ssl.run.training_size import require_training_room, teacher_bytes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FromScratch:
    """The control of one run: the teacher's trainer on the labelled dataset, under plans with another length."""

    setup: NnunetSetup
    """With the control's plans."""
    model: ModelLocation
    fold: int | str

    @property
    def epochs(self) -> int:
        return self.setup.method.teacher.length.num_epochs

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return self.epochs * self.setup.method.teacher.length.iterations_per_epoch


def from_scratch_method(method: MethodConfig, steps: int) -> MethodConfig:
    """The settings of the control: the teacher's, with the fewest epochs that have at least so many steps, and no head trained.

    Args:
        method: of the run.
        steps: optimiser steps.
    """
    epochs = math.ceil(steps / method.teacher.length.iterations_per_epoch)
    return method.with_settings({"teacher.length.num_epochs": epochs, "teacher.distillation_epochs": 0})


def begin_from_scratch(run: Run) -> FromScratch:
    """Lay the plans of the control; their name has its epochs in it, so that runs of other lengths do not meet.

    Args:
        run: a finished run.

    Raises:
        ConfigError: if the length of its teacher is not ours to set, or unknown.
        StateError: if the control was trained with other settings, or its plans are older than the data that they share.
    """
    if run.manifest.predictions is not None:
        raise ConfigError(
            f"--control {FROM_SCRATCH}: predictions are the run's teacher, and how many steps are behind them is not known; train nnU-Net "
            "for as long as you think fair, and compare by hand."
        )
    if not is_our_teacher(run.teacher.trainer):
        raise ConfigError(
            f"--control {FROM_SCRATCH}: how long {run.teacher.trainer} trains is not ours to set; train one with a number of epochs that "
            "counts the students' as well (nnU-Net has nnUNetTrainer_2000epochs and others), and compare by hand."
        )
    if run.accepted:
        logger.warning("%d pool cases of the run have accepted labels, from which its control does not learn", len(run.accepted))
    method = from_scratch_method(run.method, steps_until(run, len(run.manifest.stages)))
    plans_name = control_plans_name(run.setup.plans_name, FROM_SCRATCH, epochs=method.teacher.length.num_epochs)
    model = replace(run.teacher, plans=plans_name)
    _refuse_other_settings(run.setup, model, run.fold, method)
    lay_control_plans(run.setup, plans_name, method)
    return FromScratch(load_setup(run.setup.dataset, run.setup.configuration, plans_name), model, run.fold)


def _refuse_other_settings(setup: NnunetSetup, model: ModelLocation, fold: int | str, method: MethodConfig) -> None:
    """See that a training which is there, or has begun, was of these settings: its plans name tells the length alone."""
    if not plans_file(setup, model.plans).is_file() or checkpoint_to_open(model, fold) is None:
        return
    before = load_setup(setup.dataset, setup.configuration, model.plans).method.teacher
    if before != method.teacher:
        raise StateError(
            f"{model.fold_folder(fold)} was trained with other settings of the teacher than those of the run; remove it to train the "
            "control anew."
        )


def from_scratch_step(control: FromScratch, *, device: str, logs: Path) -> Step:
    """Train the control, or what is left of its training.

    Args:
        control: which.
        device: `cuda`, `cpu` or `mps`.
        logs: folder for the output.
    """
    model, fold, setup = control.model, control.fold, control.setup

    def work() -> None:
        require_training_room(model, fold, teacher_bytes(setup, setup.method, model.trainer, fold))
        train(model, fold, device=device, log=logs / f"{control_overlay(FROM_SCRATCH)}.txt", epochs=control.epochs)

    return Step(
        f"train from scratch on manual labels, {control.epochs} epochs, {control.steps} steps",
        training_command(model, fold, device=device),
        lambda: is_trained_and_validated(model, fold),
        work,
        uses_device=True,
        progress=lambda: training_progress(model, fold, control.epochs),
    )
