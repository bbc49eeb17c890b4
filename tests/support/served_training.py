"""Stands in for the process of a training: a fork of a server that has imported PyTorch and nnU-Net once, and that has no threads."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.reduction import DupFd
from typing import Any

from forked_training import train

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["nnunetv2.run.run_training", "nnunet_ssl.training.student"])


class ServedTraining:
    """What `subprocess.Popen` gives of `[python, -u, -c, source, *arguments]`, as far as `training_process` uses it.

    Two steps of training take a second and the imports before them ten, in every process anew.
    """

    def __init__(self, command: list[str], *, env: dict[str, str], **_: Any) -> None:
        reading, writing = os.pipe()
        self.stdin = None
        self._process = _SERVER.Process(target=_train, args=(command[4:], env, _Handle(writing)))
        self._process.start()
        os.close(writing)
        self.stdout = os.fdopen(reading, errors="replace")

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int:
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode

    def terminate(self) -> None:
        self._process.terminate()


class _Handle:
    """An open file that goes along to the process."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (DupFd(self._number),)


def _received(handle: Any) -> int:
    number: int = handle.detach()
    return number


def _train(arguments: list[str], env: dict[str, str], output: int) -> None:
    import torch

    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    torch.set_num_threads(1)
    torch.set_num_threads = lambda number: None  # nnU-Net gives a training on a CPU all its cores
    train(arguments, env)
