"""The right to change a run, and to allot ids, on file systems that can lock and on those that cannot."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from nnunet_ssl.cli.command import run_command
from nnunet_ssl.data.workspace_lock import LOCK_FILE, changing_run, make_lock
from nnunet_ssl.errors import StateError
from nnunet_ssl.locations import results_root
from nnunet_ssl.pseudolabel import dataset_ids
from nnunet_ssl.pseudolabel.dataset_ids import allotting


def no_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A file system that answers so to whoever wants to lock a file."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    for name in ("flock", "lockf"):
        monkeypatch.setattr(fcntl, name, refuse)


def change(workspace: Path) -> None:
    with changing_run(workspace):
        (workspace / "changed").touch()


def test_one_process_changes_a_run(tmp_path: Path) -> None:
    make_lock(tmp_path / "nnssl")
    assert [path.name for path in (tmp_path / "nnssl").iterdir()] == [LOCK_FILE]  # as it stays
    with changing_run(tmp_path / "nnssl"), pytest.raises(StateError, match="another process is writing a stage of"):
        change(tmp_path / "nnssl")
    change(tmp_path / "nnssl")


@pytest.mark.filterwarnings("ignore:flock not supported")
def test_run_on_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_locks(monkeypatch, errno.ENOSYS)
    make_lock(tmp_path / "nnssl")
    for _ in range(2):
        with changing_run(tmp_path / "nnssl"), pytest.raises(StateError, match="another process is writing a stage of"):
            change(tmp_path / "nnssl")
    change(tmp_path / "nnssl")


@pytest.mark.filterwarnings("ignore:flock not supported")
def test_ids_on_a_file_system_without_locks(nnunet_environment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    no_locks(monkeypatch, errno.ENOSYS)
    for _ in range(2):
        with allotting():
            pass


def allot() -> None:
    with allotting():
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_refused_locks_are_one_line(
    number: int, nnunet_environment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    no_locks(monkeypatch, number)
    for body, place in (
        (allot, results_root() / dataset_ids.LOCK_FILE),
        (lambda: make_lock(tmp_path / "nnssl"), tmp_path / "nnssl" / LOCK_FILE),
    ):
        assert run_command("nnssl_x", body) == 2
        assert capsys.readouterr().err.startswith(f"nnssl_x: error: {place}: the file system ")


def test_everybody_may_allot_ids(nnunet_environment: Any) -> None:
    before = os.umask(0o022)
    try:
        allot()
    finally:
        os.umask(before)
    assert stat.S_IMODE((results_root() / dataset_ids.LOCK_FILE).stat().st_mode) == 0o666
