"""Which weights a student starts from."""

from __future__ import annotations

import logging
from collections.abc import Callable

from nnunet_ssl.config import StudentInit
from nnunet_ssl.errors import SetupError
from nnunet_ssl.locations import OUR_STUDENT, OUR_TEACHER, ModelLocation, results_root
from nnunet_ssl.nnunet_api.checkpoints import load_checkpoint
from nnunet_ssl.nnunet_api.network_size import shapes_of_network
from nnunet_ssl.nnunet_api.setup import NnunetSetup

logger = logging.getLogger(__name__)


def default_student(teacher_trainer: str) -> str:
    """The student trainer that has the teacher's network: ours for our teacher, the plans' own network for any other."""
    return OUR_STUDENT if teacher_trainer == OUR_TEACHER else "SemiSupervisedStudentTrainer"


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
