"""How far a training is, from the log that nnU-Net writes beside its checkpoints."""

from __future__ import annotations

import re
from datetime import datetime

from nnunet_ssl.locations import ModelLocation

_EPOCH = re.compile(r"^(?:\S+ \S+: )?Epoch (\d+)\s*$")
_TAIL_BYTES = 1 << 16


def epoch_of(line: str) -> int | None:
    """The number, from 0, of the epoch that a line of nnU-Net's output or log begins; None for any other line."""
    match = _EPOCH.match(line)
    return int(match[1]) if match else None


def training_progress(model: ModelLocation, fold: int | str, epochs: int | None) -> str | None:
    """What can be said of a training that is not done, whichever process or machine trains it; None where none has begun.

    Args:
        model: what is trained.
        fold: of the dataset.
        epochs: of the whole training; None where unknown.
    """
    if model.checkpoint(fold).is_file():
        return "trained, its final validation is to do"
    logs = sorted(model.fold_folder(fold).glob("training_log_*.txt"), key=lambda path: path.stat().st_mtime)
    if not logs:
        return None
    with logs[-1].open("rb") as log:
        log.seek(max(0, logs[-1].stat().st_size - _TAIL_BYTES))
        lines = log.read().decode(errors="replace").splitlines()
    begun = [epoch for line in lines if (epoch := epoch_of(line)) is not None]
    of_all = "" if epochs is None else f" of {epochs}"
    done = f"{begun[-1]}{of_all} epochs done" if begun else "begun"
    return f"{done}, its log last written {datetime.fromtimestamp(logs[-1].stat().st_mtime):%Y-%m-%d %H:%M}"
