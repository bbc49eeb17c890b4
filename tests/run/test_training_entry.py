"""The process of a training is alone in its folder, and ends with the process that started it, even if that one is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
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

begin()
worker = multiprocessing.get_context("fork").Process(target=sleep, daemon=True)
worker.start()
open({pids!r} + ".new", "w").write(f"{{os.getpid()}} {{worker.pid}}")
os.rename({pids!r} + ".new", {pids!r})
sleep()
"""
"""A training that takes two minutes and has a worker process, in place of nnU-Net's."""
STARTER = """
from pathlib import Path
from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.run import training_process
training_process._ENTRY = {entry!r}
model = ModelLocation(dataset="Dataset601_Tiny_f0s1", trainer="T", plans="P", configuration="3d_fullres")
training_process.train(model, 0, device="cpu", log=Path({log!r}), epochs=1)
"""


@pytest.fixture
def starter(nnunet_environment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A process that trains, in a process group that its training is in, too."""
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


def runs(pid: int) -> bool:
    """Whether a process is there and not merely waiting for its parent to look."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")
def test_training_and_its_workers_end_with_a_killed_starter(starter: Any, tmp_path: Path) -> None:
    assert within(60, (tmp_path / "pids").exists)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert all(map(runs, pids))
    os.kill(starter.pid, signal.SIGKILL)  # this process alone, not its group
    starter.wait()
    assert within(20, lambda: not any(map(runs, pids)))


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
