"""Run `nnUNetv2_train` in its own process, with a progress bar, a log file and a start that continues where an earlier one stopped."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from nnunet_ssl.errors import LESS_MEMORY, StateError
from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.nnunet_api.checkpoints import load_checkpoint
from nnunet_ssl.nnunet_api.external_trainers import environment_with_trainers
from nnunet_ssl.nnunet_api.training_state import checkpoint_to_open, training_command
from nnunet_ssl.run.training_entry import FOLDER_VARIABLE
from nnunet_ssl.run.training_progress import epoch_of

logger = logging.getLogger(__name__)

_ENTRY = """
from nnunet_ssl.run.training_entry import begin
begin()
from nnunetv2.run.run_training import run_training_entry
run_training_entry()
"""
_FULL_DISK = re.compile("No space left on device|Disk quota exceeded")
_FULL_GPU = re.compile("OutOfMemoryError|CUDA out of memory|CUDA error: out of memory")
_LINES_KEPT = 50
"""Of the output's end: what worker processes print when they are ended may follow the line that says why a training stopped."""
_GRACE_SECONDS = 1
"""Between asking what is left of a training to end and killing it; meanwhile Python's resource tracker, which nobody can ask, tidies up."""


def train(model: ModelLocation, fold: int | str, *, device: str, log: Path, epochs: int | None, npz: bool = False) -> None:
    """Train a model, or continue its training; where another process trains it already, that is an error.

    The training ends when this process does, and its worker processes when it does, even if one of them is killed.

    Args:
        model: which dataset, trainer, plans and configuration.
        fold: fold of the dataset.
        device: `cuda`, `cpu` or `mps`.
        log: file that the process's output is appended to.
        epochs: for the progress bar; None where unknown.
        npz: whether the final validation saves probabilities.

    Raises:
        StateError: if the checkpoint to continue from is damaged or carries code, or if the process fails; the message shows its last line
            and names the log.
    """
    arguments = [model.dataset, model.configuration, str(fold), "-tr", model.trainer, "-p", model.plans, "-device", device]
    given = training_command(model, fold, npz=npz, device=device)
    arguments += ["--npz"] if npz else []
    if (checkpoint := checkpoint_to_open(model, fold)) is not None:
        load_checkpoint(checkpoint)  # refused here where it carries code: a trainer of nnU-Net's own would run it
        is_final = checkpoint == model.checkpoint(fold)
        arguments.append("--val" if is_final else "--c")
        if is_final:
            # nnU-Net removes it right after the final one is written, unless it is killed in between; a newer one is of a training anew
            latest = checkpoint.with_name("checkpoint_latest.pth")
            if latest.is_file() and latest.stat().st_mtime_ns <= checkpoint.stat().st_mtime_ns:
                latest.unlink()
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.is_symlink():
        log.unlink()  # what it points to is not to be written
    logger.info("%s  (log: %s)", given, log)
    environment = {**training_environment(device), FOLDER_VARIABLE: str(model.fold_folder(fold))}
    last = _stream([sys.executable, "-u", "-c", _ENTRY, *arguments], log, f"training {model.dataset}", epochs, environment)
    if last is not None:
        hint = "; make space there and give the same command again: it continues" if _FULL_DISK.search(last) else ""
        hint = f"; {LESS_MEMORY}, and give the same command again" if _FULL_GPU.search(last) else hint
        raise StateError(f"{given} failed: {last} (whole output: {log}){hint}")


def training_environment(device: str) -> dict[str, str]:
    """The environment of a training: our trainers on nnU-Net's path and, on a CPU, its loaders and exporters kept from fighting over cores.

    Variables that the user has set stay as they are.
    """
    environment = environment_with_trainers()
    if device == "cpu":
        # waiting threads that spin make a training several times slower as soon as anything else runs on the machine
        quiet = {"OMP_WAIT_POLICY": "PASSIVE", "nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": str(min(2, os.cpu_count() or 1))}
        environment = {**quiet, **environment}
    return environment


def _stream(command: list[str], log: Path, label: str, epochs: int | None, environment: dict[str, str]) -> str | None:
    """Run a command; None if it succeeds, else the last line it printed or what ended it. A log that cannot grow does not stop it.

    The command has a session of its own, and what it leaves running is ended with it, since output ends when nobody holds it open.
    """
    lines: deque[str] = deque(maxlen=_LINES_KEPT)
    # standard input is the training's lifeline: it ends when this process does
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    )
    end = threading.Thread(target=_end_together, args=(process,), daemon=True)
    end.start()
    try:
        with log.open("ab", buffering=0) as file, tqdm(total=epochs, desc=label, unit="epoch") as bar:
            for line in process.stdout or ():
                with suppress(OSError):
                    file.write(line.encode(errors="replace"))
                lines.append(line.strip())
                if (epoch := epoch_of(line.strip())) is not None:
                    bar.update(epoch - bar.n)
            end.join()
            if process.returncode == 0:
                bar.update((epochs or bar.n) - bar.n)
                return None
    finally:
        if end.is_alive():
            process.terminate()
            end.join()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
    printed = [line for line in reversed(lines) if line]
    reasons = (line for line in printed if _FULL_DISK.search(line) or _FULL_GPU.search(line))
    last = next(reasons, printed[0] if printed else "")
    if process.returncode < 0:
        return f"ended by signal {-process.returncode} (9: often for lack of memory); its last line: {last or 'none'}"
    return last or f"exit code {process.returncode}"


def _end_together(process: subprocess.Popen[str]) -> None:
    """Wait for the end of a process that leads a session, then end what is left of it.

    Workers of a training that was killed would go on for ever, and hold its output open.
    """
    process.wait()
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except (ProcessLookupError, PermissionError):  # nobody is left; macOS has the second for processes that are ending
            return
        time.sleep(_GRACE_SECONDS)
