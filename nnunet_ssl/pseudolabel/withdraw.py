"""Accepted labels that are taken back, so that their cases are pool cases like any other from the next stage on."""

from __future__ import annotations

import logging
from collections.abc import Collection

from nnunet_ssl.errors import InputError, StateError
from nnunet_ssl.pseudolabel.run import Run

logger = logging.getLogger(__name__)


def withdraw(run: Run, cases: Collection[str]) -> None:
    """Take accepted labels back; all of those named, or none. Stages that are written keep what they have.

    Args:
        run: the run.
        cases: whose labels, in any order.

    Raises:
        InputError: if a case has no accepted label.
        StateError: if no stage follows that could do without, or another process writes a stage or changes the run.
    """
    with run.changing():
        accepted = run.manifest.accepted
        if unknown := [case for case in cases if case not in accepted]:
            raise InputError(f"--withdraw {unknown[0]}: the run has no accepted label of that case; it has: {_names(accepted)}.")
        if run.next_stage is None:
            raise StateError(f"the curriculum of {run.workspace} is complete: no stage follows that could do without {next(iter(cases))}.")
        learned = sorted({record.stage for record in run.manifest.stages for case in cases if case in record.accepted})
        for case in set(cases):
            del accepted[case]
        run.manifest.save(run.workspace)
    if learned:
        logger.warning(
            "the stages written before keep the labels (stage %s), and their students have learned from them; to be rid of that, too, "
            "start over",
            ", ".join(map(str, learned)),
        )


def _names(cases: Collection[str]) -> str:
    names, most = sorted(cases), 10
    shown = ", ".join(names[:most]) or "none"
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
