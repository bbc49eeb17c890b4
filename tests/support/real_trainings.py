"""What tests with real trainings in processes of their own share: a copy of the tiny set-up, and how the processes begin."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from served_training import ServedTraining
from tiny_setup import Project, folders

from nnunet_ssl.run import training_process


def copy_project(source: Project, root: Path, *, with_pool: bool) -> Project:
    """The set-up with unlabelled images of its own and no results; without the pool it is as before `nnssl_prepare`."""
    found = folders(root)
    left_out = None if with_pool else shutil.ignore_patterns("*__pool_*")
    for name in ("raw", "preprocessed", "unlabelled"):
        shutil.copytree(getattr(source, name), getattr(found, name), dirs_exist_ok=True, ignore=left_out)
    return found


def serve_trainings(patch: pytest.MonkeyPatch) -> None:
    """Let trainings that `nnssl_run` starts be forks of a server, on one thread each."""
    patch.setattr(training_process, "subprocess", SimpleNamespace(Popen=ServedTraining, PIPE=subprocess.PIPE, STDOUT=subprocess.STDOUT))
