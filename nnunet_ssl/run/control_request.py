"""What `nnssl_run --control` is asked to do, as a run under plans of its own."""

from __future__ import annotations

from dataclasses import replace

from nnunet_ssl.errors import SetupError
from nnunet_ssl.nnunet_api.training_state import is_trained_and_validated, training_command
from nnunet_ssl.pseudolabel.control_run import begin_control
from nnunet_ssl.pseudolabel.run import Run
from nnunet_ssl.pseudolabel.run_spec import settings_in_force
from nnunet_ssl.run.run_request import RunRequest


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
    last = run.manifest.stages[-1] if run.manifest.stages else None
    if (
        last is not None
        and run.is_complete
        and run.is_trained(last.stage)
        and not is_trained_and_validated(run.student(last.stage), run.fold)
    ):
        raise SetupError(
            f"--control {name} repeats a finished run; its last student is not: {training_command(run.student(last.stage), run.fold)}"
        )
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
