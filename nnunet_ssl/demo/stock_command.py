"""nnU-Net's own commands in processes of their own, as a user would type them."""

from __future__ import annotations

import logging
import shlex
import subprocess
import sys
from pathlib import Path

from nnunet_ssl.errors import StateError
from nnunet_ssl.nnunet_api.external_trainers import environment_with_trainers

logger = logging.getLogger(__name__)

_ENTRIES = {
    "nnUNetv2_plan_and_preprocess": ("nnunetv2.experiment_planning.plan_and_preprocess_entrypoints", "plan_and_preprocess_entry"),
    "nnUNetv2_predict": ("nnunetv2.inference.predict_from_raw_data", "predict_entry_point"),
    "nnUNetv2_evaluate_folder": ("nnunetv2.evaluation.evaluate_predictions", "evaluate_folder_entry_point"),
}
"""Module and function behind each command; run this way it is this interpreter's nnU-Net, whatever is on the PATH."""


def run_stock_command(command: str, *flags: object, log: Path) -> None:
    """Run a command of nnU-Net to its end.

    Args:
        command: its name, for instance `nnUNetv2_predict`.
        flags: its arguments.
        log: file that its output is appended to.

    Raises:
        StateError: if it fails; the message shows its last line and names the log.
    """
    module, function = _ENTRIES[command]
    arguments = [str(flag) for flag in flags]
    logger.info("%s  (log: %s)", shlex.join([command, *arguments]), log)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        line = [sys.executable, "-u", "-c", f"from {module} import {function}; {function}()", *arguments]
        done = subprocess.run(line, stdout=file, stderr=subprocess.STDOUT, env=environment_with_trainers(), check=False)
    if done.returncode != 0:
        raise StateError(f"{command} failed: {last_line(log) or f'exit code {done.returncode}'} (whole output: {log})")


def last_line(log: Path) -> str:
    """The last line of a log that is not empty."""
    lines = (line.strip() for line in reversed(log.read_text(errors="replace").splitlines()))
    return next((line for line in lines if line), "")
