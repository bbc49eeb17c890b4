"""Which weights a student starts from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from nnunet_ssl.config import StudentInit
from nnunet_ssl.errors import SetupError
from nnunet_ssl.locations import OUR_STUDENT, OUR_TEACHER, ModelLocation, results_root
from nnunet_ssl.nnunet_api.checkpoints import load_checkpoint, mirroring_axes
from nnunet_ssl.nnunet_api.external_trainers import find_trainer
from nnunet_ssl.nnunet_api.network_size import shapes_of_network
from nnunet_ssl.nnunet_api.setup import NnunetSetup

logger = logging.getLogger(__name__)

_STUDENT_OF_THE_PLANS = "SemiSupervisedStudentTrainer"


def default_student(teacher_trainer: str) -> str:
    """The student trainer that has the teacher's network: ours for our teacher and what is derived from it, else the plans' own network."""
    if teacher_trainer == OUR_TEACHER:
        return OUR_STUDENT
    try:
        trainer = find_trainer(teacher_trainer)
    except SetupError:  # an error where the teacher is needed, and said there
        return _STUDENT_OF_THE_PLANS
    # only a trainer that builds TransASPPUNet itself, whatever the plans name, says so of its own
    return OUR_STUDENT if getattr(trainer, "has_uncertainty_head", None) else _STUDENT_OF_THE_PLANS


def teacher_mirroring(teacher: ModelLocation, folds: Sequence[int | str]) -> list[int] | None:
    """Spatial axes along which the teacher was mirrored in training, by its checkpoints.

    Args:
        teacher: its model; where predictions are the teacher, the one whose weights may be taken.
        folds: of it; only axes that all of them have count.

    Returns:
        None where there is no checkpoint, or none says it.

    Raises:
        StateError: if a checkpoint is damaged.
    """
    known: list[set[int]] = []
    for path in (teacher.checkpoint(fold) for fold in folds):
        axes = mirroring_axes(load_checkpoint(path), path) if path.is_file() else None
        if axes is not None:
            known.append(set(axes))
    return sorted(set.intersection(*known)) if known else None


def resolve_start(
    init: StudentInit,
    stage: int,
    teacher: ModelLocation,
    teacher_fold: int | str,
    student: Callable[[int], ModelLocation],
    fold: int | str,
    setup: NnunetSetup,
) -> tuple[str, str | None]:
    """Resolve `--student-init` for one stage.

    Args:
        init: as configured.
        stage: t, from 1.
        teacher: the teacher's model, or another whose weights may be taken.
        teacher_fold: fold of it whose weights may be taken.
        student: gives the student's model of a stage.
        fold: fold of the run.
        setup: the set-up, whose plans describe the student's network.

    Returns:
        `teacher`, `previous` or `scratch`, and the checkpoint relative to nnUNet_results (None for scratch).

    Raises:
        SetupError: if `teacher` is asked for, and there is no such model, or its network is another than the student's.
    """
    if init == "scratch":
        return "scratch", None
    if init in ("auto", "previous") and stage > 1:
        return "previous", _relative(student(stage - 1), fold)
    if not teacher.checkpoint(teacher_fold).is_file():  # where predictions are the teacher
        if init == "teacher":
            raise SetupError(f"{teacher.checkpoint(teacher_fold)} is missing, so no weights are there; use --student-init scratch.")
        logger.info("no trained model is there to start from: stage 1 starts from scratch")
        return "scratch", None
    if _same_network(teacher, teacher_fold, student(stage).trainer, setup):
        return "teacher", _relative(teacher, teacher_fold)
    if init == "teacher":
        raise SetupError(
            f"the student {student(stage).trainer} cannot start from {teacher.name}: their networks differ; use --student-init scratch or "
            f"--student-tr {default_student(teacher.trainer)}."
        )
    logger.warning("the teacher's network is not the student's: stage 1 starts from scratch")
    return "scratch", None


def _relative(model: ModelLocation, fold: int | str) -> str:
    return model.checkpoint(fold).relative_to(results_root()).as_posix()


def _same_network(teacher: ModelLocation, teacher_fold: int | str, student_trainer: str, setup: NnunetSetup) -> bool:
    weights = load_checkpoint(teacher.checkpoint(teacher_fold))["network_weights"]
    wanted = {name: tuple(value.shape) for name, value in shapes_of_network(setup, student_trainer).state_dict().items()}
    return wanted == {name: tuple(value.shape) for name, value in weights.items()}
