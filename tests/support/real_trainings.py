"""What tests with real trainings in processes of their own share: a copy of the tiny set-up, and one thread each."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_setup import Project, folders

from nnunet_ssl.run import training_process

ONE_THREAD = "import multiprocessing; multiprocessing.cpu_count = lambda: 1; "
"""nnU-Net gives a training on a CPU all its cores."""


def copy_project(source: Project, root: Path, *, with_pool: bool) -> Project:
    """The set-up with unlabelled images of its own and no results; without the pool it is as before `nnssl_prepare`."""
    found = folders(root)
    left_out = None if with_pool else shutil.ignore_patterns("*__pool_*")
    for name in ("raw", "preprocessed", "unlabelled"):
        shutil.copytree(getattr(source, name), getattr(found, name), dirs_exist_ok=True, ignore=left_out)
    return found


def give_one_thread(patch: pytest.MonkeyPatch) -> None:
    """Let trainings that `nnssl_run` starts use one thread each."""
    patch.setattr(training_process, "_ENTRY", ONE_THREAD + training_process._ENTRY)
    patch.setenv("OMP_NUM_THREADS", "1")
