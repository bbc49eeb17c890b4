"""The steps of a run in which labels come from elsewhere."""

from __future__ import annotations

import shlex
from pathlib import Path

from nnunet_ssl.machines.engine import engine_at
from nnunet_ssl.pseudolabel.accept import accept, is_accepted
from nnunet_ssl.pseudolabel.predictions import take_predictions
from nnunet_ssl.run.run_request import RunRequest, Step


def predictions_step(request: RunRequest, command: str) -> Step:
    """In place of the teacher's training: begin the run with predictions and make evidence of them."""

    def is_done() -> bool:
        run = request.begun()
        return run is not None and all(store.has(case) for store in run.teacher_stores().values() for case in run.pseudo_cases)

    def work() -> None:
        run = request.open()
        with engine_at(request.dask) as engine:
            take_predictions(run, run.pseudo_cases, engine)

    return Step("take the predictions", command, is_done, work, is_before_stages=True, key="predictions")


def accept_step(request: RunRequest, folder: Path, command: str) -> Step:
    """Accept the labels of a folder, before the next stage is written."""

    def is_done() -> bool:
        run = request.begun()
        return run is not None and is_accepted(run, folder)

    def work() -> None:
        accept(request.open(), folder, takes_unchanged=request.accept_unchanged)

    flags = f"--accept {shlex.quote(str(folder))}" + (" --accept-unchanged" if request.accept_unchanged else "")
    return Step("accept labels", f"{command} {flags}", is_done, work, is_before_stages=True, key="accept")
