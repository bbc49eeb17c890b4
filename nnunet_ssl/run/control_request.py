"""What `nnssl_run --control` is asked to do, as a run under plans of its own."""

from __future__ import annotations

from dataclasses import replace

from nnunet_ssl.pseudolabel.control_run import begin_control
from nnunet_ssl.pseudolabel.run import Run
from nnunet_ssl.pseudolabel.start_run import settings_in_force
from nnunet_ssl.run.run_request import RunRequest


def control_request(request: RunRequest, run: Run, name: str) -> RunRequest:
    """Begin the control of a finished run, or find it.

    Args:
        request: that led to the run.
        run: the run.
        name: of the control.

    Raises:
        SetupError: if the run is not finished.
        ConfigError: if the run is its own control.
        StateError: if the control on disk is of another run.
    """
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
        groups=None,
        leave_group_out=False,
    )
