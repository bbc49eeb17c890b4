"""What `nnssl_run --control` is asked to do, as a run under plans of its own."""

from __future__ import annotations

from dataclasses import replace

from nnunet_ssl.errors import SetupError
from nnunet_ssl.nnunet_api.training_state import is_trained_and_validated, training_command
from nnunet_ssl.pseudolabel.control_run import begin_control, require_finished
from nnunet_ssl.pseudolabel.run import Run
from nnunet_ssl.pseudolabel.run_spec import settings_in_force
from nnunet_ssl.run.control_comparison import last_student
from nnunet_ssl.run.run_request import RunRequest


def require_validated(run: Run, name: str) -> None:
    """See that the run is finished, and its last student validated.

    Args:
        run: the run.
        name: of the control.

    Raises:
        SetupError: if it is not.
    """
    require_finished(run, name)
    student = last_student(run)
    if not is_trained_and_validated(student, run.fold):
        raise SetupError(f"--control {name} repeats a finished run; its last student is not: {training_command(student, run.fold)}")


def control_request(request: RunRequest, run: Run, name: str) -> RunRequest:
    """Begin the control of a finished run, or find it.

    Args:
        request: that led to the run.
        run: the run.
        name: of the control.

    Raises:
        SetupError: if the run is not finished, or its last student not validated.
        ConfigError: if the run is its own control.
        StateError: if the control on disk is of another run.
    """
    require_validated(run, name)
    setup = begin_control(run, name)
    return replace(
        request,
        setup=setup,
        unlabelled=(),
        teacher_trainer=run.teacher.trainer,
        teacher_folds=None,
        student_trainer=run.manifest.student_trainer,
        method=settings_in_force(setup, run.teacher.trainer, run.fold),
        first_id=None,
        predictions=(),
        accept=None,
        accept_unchanged=False,
        groups=None,
        leave_group_out=False,
        npz=False,
    )
