"""The supervised control: the same labels and network, and as many optimiser steps as teacher and students together."""

from __future__ import annotations

import math
from typing import Any

from nnunet_ssl.config import LengthConfig, MethodConfig


def supervised_steps(method: MethodConfig) -> int:
    """Optimiser steps of the teacher's supervised phase."""
    return _steps(method.teacher.length)


def student_steps(method: MethodConfig, stage: int) -> int:
    """Optimiser steps of one stage's student, with the fine-tuning that may follow the last stage."""
    length, curriculum = method.student.length, method.curriculum
    epochs = curriculum.stage_epochs(length.num_epochs)[stage - 1]
    if stage == curriculum.num_stages:
        epochs += method.student.fine_tune_epochs
    return epochs * length.iterations_per_epoch


def steps_until(method: MethodConfig, stage: int) -> int:
    """Optimiser steps that a stage's student has behind it, those of teacher and earlier students included; stage 0 is the teacher.

    Uncertainty distillation does not count: it leaves alone what segments.
    """
    return supervised_steps(method) + sum(student_steps(method, s) for s in range(1, stage + 1))


def control_epochs(method: MethodConfig) -> int:
    """Epochs of the teacher's length that have at least as many steps as teacher and all students together."""
    return math.ceil(steps_until(method, method.curriculum.num_stages) / method.teacher.length.iterations_per_epoch)


def control_overlay(overlay: dict[str, Any], method: MethodConfig) -> dict[str, Any]:
    """The overlay of the control's plans.

    Args:
        overlay: what the teacher's plans were made with; network, widths and batch size stay.
        method: the settings of the run that the control is compared with.
    """
    teacher = method.to_dict()["teacher"]
    teacher |= {"length": {**teacher["length"], "num_epochs": control_epochs(method)}, "distillation_epochs": 0}
    description = "The supervised control of a run: same labels, same network, equal optimiser steps."
    return {**overlay, "description": description, "nnssl": {"teacher": teacher}}


def _steps(length: LengthConfig) -> int:
    return length.num_epochs * length.iterations_per_epoch
