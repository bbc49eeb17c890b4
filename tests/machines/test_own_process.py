"""One worker process: what it gives, what it raises, and that nothing of it is left."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import torch
from living import lives
from tiny_setup import Project, open_tiny_run, teacher_store

from nnunet_ssl.cli import run as run_command
from nnunet_ssl.errors import InputError, StateError
from nnunet_ssl.machines.engine import engine_at
from nnunet_ssl.machines.own_process import OwnProcess
from nnunet_ssl.pseudolabel.gather import gather_teacher_evidence
from nnunet_ssl.run import pipeline


def number_of(job: str) -> tuple[int, int]:
    """Its own process, and the number in a job."""
    if job == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if job == "bad":
        raise InputError("bad.nii.gz is bad; replace it.")
    if job == "full disk":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "case.b2nd")
    if job == "full GPU":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
    return os.getpid(), int(job)


def results(engine: OwnProcess, jobs: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    return dict(engine.run(number_of, jobs))


def test_another_process_does_the_work_and_ends_with_the_block() -> None:
    with OwnProcess() as engine:
        found = results(engine, {"a": "1", "b": "2"})
        (process,) = {process for process, _ in found.values()}
        assert [number for _, number in found.values()] == [1, 2]
        assert process != os.getpid()
        assert lives(process)
        assert results(engine, {"c": "3"}) == {"c": (process, 3)}
    assert not lives(process)


def test_expected_errors_and_defects_are_raised_here(capfd: pytest.CaptureFixture[str]) -> None:
    with OwnProcess() as engine:
        with pytest.raises(InputError, match=r"bad\.nii\.gz is bad; replace it"):
            results(engine, {"a": "1", "b": "bad"})
        assert capfd.readouterr().err == ""
        with pytest.raises(ValueError, match="invalid literal"):
            results(engine, {"a": "no number"})
        assert "in number_of" in capfd.readouterr().err
        # which the commands say in one line
        for job, kind in (("full disk", OSError), ("full GPU", torch.OutOfMemoryError)):
            with pytest.raises(kind):
                results(engine, {"a": job})
            assert capfd.readouterr().err == ""
        assert results(engine, {"c": "3"})["c"][1] == 3


def test_a_worker_that_is_ended_is_told() -> None:
    with OwnProcess() as engine, pytest.raises(StateError, match=r"case 'b': the process that works on it was ended .*\(exit code -9\)"):
        results(engine, {"a": "1", "b": "die"})


def test_nothing_starts_without_a_job() -> None:
    with OwnProcess() as engine:
        assert results(engine, {}) == {}
        assert engine._worker is None


@pytest.mark.timeout(60)
def test_a_killed_command_leaves_no_worker(tmp_path: Path) -> None:
    """The worker holds a GPU's memory, and nobody would end it."""
    place = tmp_path / "worker"
    code = (
        "import sys, time\n"
        "from nnunet_ssl.machines.own_process import OwnProcess\n"
        "from test_own_process import number_of\n"
        "if __name__ == '__main__':\n"
        "    [(_, (worker, _))] = OwnProcess().run(number_of, {'a': '1'})\n"
        f"    open({str(place)!r}, 'w').write(str(worker))\n"
        "    time.sleep(60)\n"
    )
    script = tmp_path / "command.py"
    script.write_text(code)
    path = os.pathsep.join([*sys.path, str(Path(__file__).parent)])
    with subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": path}) as command:
        while not place.exists() or not place.read_text():
            assert command.poll() is None
            time.sleep(0.1)
        command.kill()
    worker = int(place.read_text())
    for _ in range(100):
        if not lives(worker):
            break
        time.sleep(0.1)
    assert not lives(worker)


def test_gpus_are_used_by_a_process_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with engine_at(None, device="cuda") as engine:
        assert isinstance(engine, OwnProcess)
    with engine_at(None, device="cpu") as engine:
        assert engine is None


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_stages_are_written_that_way(project: Project, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """A training of `nnssl_run` follows; before it starts, nothing of the command is on the GPU any more."""
    asked: list[Any] = []
    monkeypatch.setattr(pipeline, "grow", lambda run, *, device, engine: asked.append((device.type, type(engine))))
    words = ["-d", "137", "-c", "3d_fullres", "-f", "0", "-device", device]
    arguments = run_command.parser().parse_args(words)
    (request,) = run_command._requests(arguments, {})
    monkeypatch.setattr(type(request), "open", lambda *_, **__: None)
    (step,) = [step for step in pipeline.pipeline(request) if step.key == "stage-1"]
    step.work()
    assert asked == [(device, OwnProcess if device == "cuda" else type(None))]


def test_evidence_is_what_this_process_gathers(taught_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))  # sums depend on it in their last digits
    run = open_tiny_run(taught_project)
    store, found = teacher_store(run), []
    for engine in (None, OwnProcess()):
        for path in store.folder.glob("*.b2nd"):
            path.unlink()
        with engine or open(os.devnull):
            gather_teacher_evidence(run, torch.device("cpu"), run.pseudo_cases[:2], engine)
        found.append({path.name: blosc2.open(str(path), mode="r")[:] for path in sorted(store.folder.glob("*.b2nd"))})
    alone, elsewhere = found
    assert alone.keys() == elsewhere.keys()
    assert len(alone) == 2
    for name, values in alone.items():
        np.testing.assert_array_equal(values, elsewhere[name])
