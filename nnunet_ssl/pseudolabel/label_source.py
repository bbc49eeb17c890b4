"""Whose evidence makes the labels of a stage, and whether refined labels are taken."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from nnunet_ssl.config import StudentConfig
from nnunet_ssl.data.manifest import StageRecord
from nnunet_ssl.pseudolabel.held_out_study import HeldOutStudy
from nnunet_ssl.pseudolabel.label_change import ChangeReport, label_change
from nnunet_ssl.pseudolabel.pool_labels import PoolLabels
from nnunet_ssl.pseudolabel.rollback import worse_than_in_force
from nnunet_ssl.pseudolabel.run import Run

logger = logging.getLogger(__name__)

PUSHING_DOWN = ("paper", "bounded", "negative")
"""Forms of unlearning that push the label itself down, and are wrong where the label is right."""


@dataclass(frozen=True)
class LabelSource:
    """Whose evidence makes the labels of a stage."""

    student_stage: int | None
    """Stage whose student takes part; None: the teacher alone."""
    weight: float
    kept_previous: bool = False

    @property
    def student(self) -> int | None:
        """Stage whose student takes part in the labels; None: they are the teacher's alone."""
        return self.student_stage if self.weight > 0 else None


TEACHER_ALONE = LabelSource(None, 0.0)


def source_of(record: StageRecord) -> LabelSource:
    """Whose evidence made the labels of a stage that is written."""
    return LabelSource(record.label_stage, record.agreement_weight, record.kept_previous)


def labels_of(run: Run, source: LabelSource, study: HeldOutStudy | None) -> PoolLabels:
    """The pool's labels from a source.

    Args:
        run: the run.
        source: whose evidence.
        study: what held-out cases say, if they are to decide about labels.
    """
    student = None if source.student is None else run.student_store(source.student)
    return PoolLabels(
        setup=run.setup,
        pool=run.pool,
        teacher=run.teacher_stores(),
        student=student,
        weight=source.weight if student is not None else 0.0,
        maps=None if study is None else study.maps,
        # no student has held-out cases of its own with every label in training: it borrows the teachers' common map
        student_map=None if study is None else study.calibration.map,
        gate=study.gate if study is not None and gates(run.method.student) else None,
    )


def gates(student: StudentConfig) -> bool:
    """Whether unlearning is held back where held-out labels are right."""
    return student.unlearning_gate and student.unlearning in PUSHING_DOWN


def choose_source(run: Run, stage: int, study: HeldOutStudy | None) -> tuple[LabelSource, ChangeReport | None]:
    """Refine the labels by agreement with the previous stage's student, or keep the previous ones.

    They are kept where they would change too much, and where the previous student is worse than the model whose labels are in force on
    labelled validation cases, by a test.

    Returns:
        Whose evidence to use, and how much the refined labels differ from the previous stage's (None at the first stage).
    """
    agreement = run.method.agreement
    if stage == 1:
        return TEACHER_ALONE, None
    previous = source_of(run.manifest.stages[-1])
    refined = LabelSource(stage - 1, agreement.weight) if agreement.weight > 0 else TEACHER_ALONE
    before, after = labels_of(run, previous, study), labels_of(run, refined, study)
    change = label_change(before, after, run.pseudo_cases)
    logger.info("labels against stage %d: %s", stage - 1, change.describe())
    kept = LabelSource(previous.student_stage, previous.weight, kept_previous=True)
    if change.overall > agreement.max_change:
        logger.warning(
            "%.1f %% of the foreground voxels changed, more than the %.0f %% allowed: the labels of stage %d are kept",
            100 * change.overall,
            100 * agreement.max_change,
            stage - 1,
        )
        return kept, change
    if refined.student is not None and (problem := worse_than_in_force(run, stage - 1, in_force=previous.student)):
        logger.warning("%s: the labels of stage %d are kept", problem, stage - 1)
        return kept, change
    if change.overall < agreement.stop_change:
        logger.info("less than %.1f %% changed: the labels have settled", 100 * agreement.stop_change)
    return refined, change
