"""Optimiser steps that the models of a run have behind them."""

from __future__ import annotations

from nnunet_ssl.pseudolabel.run import Run


def steps_until(run: Run, stage: int) -> int:
    """Optimiser steps of all teachers and of the students up to a stage, the fine-tuning that may follow the last one among them.

    Uncertainty distillation does not count: it leaves alone what segments.

    Args:
        run: in which the stages are written.
        stage: 0 is the teacher.
    """
    teacher, student = run.method.teacher.length, run.method.student
    records = run.manifest.stages[:stage]
    epochs = sum(record.num_epochs + record.is_last * student.fine_tune_epochs for record in records)
    teachers = len(run.manifest.teacher_folds) * teacher.num_epochs * teacher.iterations_per_epoch
    return teachers + epochs * student.length.iterations_per_epoch
