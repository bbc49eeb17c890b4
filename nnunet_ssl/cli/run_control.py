"""`nnssl_run --control`: every fold's control, beside its run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nnunet_ssl.cli.next_command import print_export
from nnunet_ssl.cli.run_printing import print_fold, print_settings, print_table

if TYPE_CHECKING:
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
    from nnunet_ssl.cli.pseudolabel import predict_line
    from nnunet_ssl.errors import SetupError
    from nnunet_ssl.run.control_comparison import compare, comparison_lines
    from nnunet_ssl.run.control_request import control_request
    from nnunet_ssl.run.pipeline import execute, pipeline

    runs, controls = [], []
    for request in requests:  # all are begun before any is trained
        if (run := request.begun()) is None:
            raise SetupError(
                f"--control {name} repeats a finished run, and none of fold {request.fold} has begun; leave --control out first."
            )
        runs.append(run)
        controls.append(control_request(request, run, name))
    for request, control in zip(requests, controls, strict=True):
        print_fold(request, requests)
        print(f"control '{name}': plans {control.setup.plans_name}")
        print_settings(control)
        execute(pipeline(control))
        print("run:")
        print_table(request)
        print(f"control '{name}':")
        print_table(control)
    pairs = [(run, control.open()) for run, control in zip(runs, controls, strict=True)]
    if requests[0].fold == "all":
        print("with -f all no labelled case is unseen; compare both on test cases:")
    else:
        print("\n".join(comparison_lines(name, [compare(*pair) for pair in pairs])))
    folds = " ".join(str(request.fold) for request in requests)
    print_export(requests[0].student)
    for which, run in zip(("next", "  and"), pairs[0], strict=True):
        print(f"{which}: {predict_line(run, folds, device=requests[0].device)}")
