"""Stands in for the process of a training: a fork of this one, which has PyTorch already."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import Any

from quick_nnunet import quick_nnunet
from seeded_training import seed_trainings


class ForkedTraining:
    """What `subprocess.Popen` gives of `[python, -u, -c, source, *arguments]`, as far as `training_process` uses it."""

    def __init__(self, command: list[str], *, env: dict[str, str], **_: Any) -> None:
        reading, writing = os.pipe()
        self.returncode: int | None = None
        self.stdin = None
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reading)
            os.dup2(writing, 1)
            os.dup2(writing, 2)
            train(command[4:], env)
        os.close(writing)
        self.stdout = os.fdopen(reading, errors="replace")

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)


def train(arguments: list[str], env: dict[str, str]) -> None:
    """nnU-Net's own entry point with these arguments, in a process that ends with it."""
    code = 70
    try:
        sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
        sys.argv = ["nnUNetv2_train", *arguments]
        os.environ.clear()
        os.environ.update(env)
        seed_trainings()
        from nnunetv2.run.run_training import run_training_entry

        with quick_nnunet():
            run_training_entry()
        code = 0
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        os._exit(code)
