"""The process of a training is alone in its folder, and ends with the process that started it, even if that one is killed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from living import lives
from tiny_setup import folders

from nnunet_ssl.errors import StateError
from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.run import training_process
from nnunet_ssl.run.training_entry import LOCK, lock_folder
from nnunet_ssl.run.training_process import train

PROJECT = Path(__file__).resolve().parents[2]
MODEL = ModelLocation(dataset="Dataset601_Tiny_f0s1", trainer="T", plans="P", configuration="3d_fullres")

TRAINING = """
import multiprocessing, os, time
from nnunet_ssl.run.training_entry import begin

def sleep():
    time.sleep(120)

def work():
    if not (of_worker := os.fork()):
        sleep()
    open({pids!r} + ".new", "w").write(f"{{os.getppid()}} {{os.getpid()}} {{of_worker}}")
    os.rename({pids!r} + ".new", {pids!r})
    sleep()

begin()
worker = multiprocessing.get_context("fork").Process(target=work, daemon=True)
worker.start()
sleep()
"""
"""A training that takes two minutes and has a worker process, which has one of its own, in place of nnU-Net's."""
STARTER = """
import signal
from pathlib import Path
from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.run import training_process
training_process._ENTRY = {entry!r}
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
model = ModelLocation(dataset="Dataset601_Tiny_f0s1", trainer="T", plans="P", configuration="3d_fullres")
training_process.train(model, 0, device="cpu", log=Path({log!r}), epochs=1)
"""


@pytest.fixture
def starter(nnunet_environment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A process that trains."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    entry = TRAINING.format(pids=str(tmp_path / "pids"))
    source = STARTER.format(entry=entry, log=str(tmp_path / "log.txt"))
    process = subprocess.Popen([sys.executable, "-c", source], stderr=subprocess.DEVNULL, start_new_session=True)
    yield process
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def within(seconds: float, condition: Any) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(condition())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_training_and_its_workers_end_with_their_starter(number: signal.Signals, starter: Any, tmp_path: Path) -> None:
    assert within(60, (tmp_path / "pids").exists)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert all(map(lives, pids))
    os.kill(starter.pid, number)  # this process alone, not its group
    starter.wait(20)
    assert within(20, lambda: not any(map(lives, pids)))


def test_second_training_beside_the_first_is_refused(starter: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert within(60, (tmp_path / "pids").exists)
    monkeypatch.setattr(training_process, "_ENTRY", TRAINING.format(pids=str(tmp_path / "second")))
    with pytest.raises(StateError, match=f"failed: another process trains in {MODEL.fold_folder(0)} already; wait for it, or end it first"):
        train(MODEL, 0, device="cpu", log=tmp_path / "second.txt", epochs=1)
    assert not (tmp_path / "second").exists()


def test_lock_belongs_to_one_process_and_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folders(tmp_path).results / "fold_0"
    held = lock_folder(folder)
    assert held is not None
    source = f"from pathlib import Path; from nnunet_ssl.run.training_entry import lock_folder; print(lock_folder(Path({str(folder)!r})))"
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))

    def other() -> str:
        return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout.strip()

    assert other() == "None"
    os.close(held)
    assert other() != "None"
    assert lock_folder(folder) is not None
    assert [f.name for f in folder.iterdir()] == [LOCK]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_training_where_nothing_can_be_locked(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    folder = tmp_path / "fold_0"
    for _ in range(2):
        descriptor = lock_folder(folder)
        assert descriptor is not None
        os.close(descriptor)
        said = f"warning: {folder} cannot be locked ({os.strerror(number)}); see to it that no other process trains there.\n"
        assert capsys.readouterr().out == said


def test_other_errors_of_the_lock_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int, operation: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "lockf", fail)
    with pytest.raises(OSError, match="Input/output error"):
        lock_folder(tmp_path / "fold_0")
