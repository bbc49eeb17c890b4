"""Work for Dask workers that die in the middle of it; a module, since workers import what they do."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from nnunet_ssl.errors import InputError


def die_once(mark: Path) -> None:
    """Kill this process, unless it or another one has died here before."""
    try:
        mark.open("x").close()
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_first_sweep(mark: Path) -> None:
    """Let the worker that comes first to its sweep of `pool_2` die in it."""
    from nnunet_ssl.pseudolabel import sweep_job

    sweep = sweep_job.sweep_case

    def deadly(predictor: Any, folder: Path, case: str, store: Any, label: str) -> None:
        if case == "pool_2":
            die_once(mark)
        sweep(predictor, folder, case, store, label)

    sweep_job.sweep_case = deadly


def refuse(job: str) -> None:
    """An expected error."""
    raise InputError(f"{job} is bad; mend it.")


def process() -> int:
    """Number of the worker's process."""
    return os.getpid()
