"""`nnssl_run --control`: every fold's control, beside its run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nnunet_ssl.cli.next_command import predict_line, print_export
from nnunet_ssl.cli.run_printing import print_fold, print_settings, print_table
from nnunet_ssl.controls import FROM_SCRATCH
from nnunet_ssl.locations import ModelLocation

if TYPE_CHECKING:
    from nnunet_ssl.pseudolabel.run import Run
    from nnunet_ssl.run.run_request import RunRequest

_NO_USE = {
    "-u": "u",
    "--preset": "preset",
    "--audit": "audit",
    "--only": "only",
    "--status": "status",
    "--dry-run": "dry_run",
    "--accept": "accept",
    "--accept-unchanged": "accept_unchanged",
    "--from-predictions": "from_predictions",
    "--teacher-folds": "teacher_folds",
    "--student-tr": "student_tr",
    "--first-id": "first_id",
    "--groups": "groups",
    "--leave-group-out": "leave_group_out",
    "--npz": "npz",
}
"""Flags that a control does not take, and the arguments that they set."""


def check_control(arguments: argparse.Namespace, assignments: Mapping[str, object]) -> None:
    """Refuse what would make a control differ from its run in more than one thing.

    Args:
        arguments: of `nnssl_run`.
        assignments: settings among them.

    Raises:
        ConfigError: for a flag that `--control` has no use for.
    """
    from nnunet_ssl.errors import ConfigError

    if arguments.control is None:
        return
    given = [flag for flag, name in _NO_USE.items() if getattr(arguments, name) not in (None, False, (), [])]
    given += [f"the setting {path}" for path in assignments]
    if given:
        raise ConfigError(f"--control repeats a finished run with one thing changed; leave out {given[0]}.")


def run_controls(name: str, requests: Sequence[RunRequest]) -> None:
    """Train the control of every fold's run, and compare.

    Args:
        name: of the control.
        requests: one per fold.

    Raises:
        SetupError: if one of the runs is not finished; nothing is trained then.
    """
    from nnunet_ssl.run.control_comparison import compare, comparison_lines

    runs = [_begun(request, name) for request in requests]
    trained = _from_scratch(requests, runs) if name == FROM_SCRATCH else _repeated(name, requests, runs)
    if requests[0].fold == "all":
        print("with -f all no labelled case is unseen; compare both on test cases:")
    else:
        print("\n".join(comparison_lines(name, [compare(*pair) for pair in zip(runs, trained.students, strict=True)])))
    _print_predictions(requests, trained.published)


@dataclass(frozen=True)
class _Trained:
    """Controls that are trained, one per fold."""

    students: list[ModelLocation]
    """Whose validations are compared with those of the runs' last students."""
    published: list[ModelLocation]
    """Models of the labelled dataset, for predictions."""


def _begun(request: RunRequest, name: str) -> Run:
    from nnunet_ssl.errors import SetupError

    if (run := request.begun()) is None:
        raise SetupError(f"--control {name} repeats a finished run, and none of fold {request.fold} has begun; leave --control out first.")
    return run


def _repeated(name: str, requests: Sequence[RunRequest], runs: Sequence[Run]) -> _Trained:
    """Controls that are runs again, with one thing changed."""
    from nnunet_ssl.run.control_comparison import last_student
    from nnunet_ssl.run.control_request import control_request
    from nnunet_ssl.run.pipeline import execute, pipeline

    # all are begun before any is trained
    controls = [control_request(request, run, name) for request, run in zip(requests, runs, strict=True)]
    for request, control in zip(requests, controls, strict=True):
        print_fold(request, requests)
        print(f"control '{name}': plans {control.setup.plans_name}")
        print_settings(control)
        execute(pipeline(control))
        print("run:")
        print_table(request)
        print(f"control '{name}':")
        print_table(control)
    return _Trained([last_student(control.open()) for control in controls], [control.published for control in controls])


def _from_scratch(requests: Sequence[RunRequest], runs: Sequence[Run]) -> _Trained:
    """One supervised training for every run."""
    from nnunet_ssl.run.control_request import require_validated
    from nnunet_ssl.run.from_scratch import begin_from_scratch, from_scratch_step
    from nnunet_ssl.run.pipeline import execute

    for run in runs:
        require_validated(run, FROM_SCRATCH)
    controls = [begin_from_scratch(run) for run in runs]
    for request, control in zip(requests, controls, strict=True):
        print_fold(request, requests)
        print(f"control '{FROM_SCRATCH}': plans {control.setup.plans_name}")
        execute([from_scratch_step(control, device=request.device, logs=request.workspace / "logs")])
        print("run:")
        print_table(request)
    models = [control.model for control in controls]
    return _Trained(models, models)


def _print_predictions(requests: Sequence[RunRequest], controls: Sequence[ModelLocation]) -> None:
    """The commands that predict with the runs' model and with the controls', which are several where their lengths differ."""
    device = requests[0].device
    folds: dict[ModelLocation, list[int | str]] = {control: [] for control in controls}
    for request, control in zip(requests, controls, strict=True):
        folds[control].append(request.fold)
    lines = [predict_line(requests[0].published, *(request.fold for request in requests), device=device)]
    lines += [predict_line(control, *of_control, device=device) for control, of_control in folds.items()]
    print_export(requests[0].student)
    for number, line in enumerate(lines):
        print(f"{'  and' if number else 'next'}: {line}")
