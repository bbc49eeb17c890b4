"""A training in its own process: the stock command, its log, and where it continues."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import tqdm as tqdm_module
from living import lives
from payload import arm_checkpoint

from nnunet_ssl.errors import StateError
from nnunet_ssl.locations import ModelLocation, trainers_folder
from nnunet_ssl.run import training_process
from nnunet_ssl.run.training_process import train, training_environment

MODEL = ModelLocation(dataset="Dataset601_Tiny_f0s1", trainer="T", plans="P", configuration="3d_fullres")
SHOW = "import sys, os, json; print(json.dumps([sys.argv[1:], os.environ['nnUNet_extTrainer']]))"


@pytest.fixture
def log(nnunet_environment: Any, tmp_path: Path) -> Path:
    return tmp_path / "logs" / "student_1.txt"


def run(log: Path, entry: str, monkeypatch: pytest.MonkeyPatch, epochs: int | None = 2, *, npz: bool = False) -> None:
    monkeypatch.setattr(training_process, "_ENTRY", entry)
    train(MODEL, 0, device="cpu", log=log, epochs=epochs, npz=npz)


def touch(name: str) -> None:
    MODEL.fold_folder(0).mkdir(parents=True, exist_ok=True)
    torch.save({"network_weights": {}}, MODEL.fold_folder(0) / name)


# ---- the command


@pytest.mark.parametrize(
    ("files", "flags"),
    [
        ([], []),
        (["checkpoint_latest.pth"], ["--c"]),
        (["checkpoint_best.pth"], ["--c"]),
        (["checkpoint_latest.pth", "checkpoint_final.pth"], ["--val"]),
        (["progress.png"], []),
    ],
)
def test_training_continues_where_it_stopped(log: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], flags: list[str]) -> None:
    for name in files:
        touch(name)
    monkeypatch.delenv("nnUNet_extTrainer")
    run(log, SHOW, monkeypatch)
    arguments, trainers = json.loads(log.read_text())
    assert arguments == [MODEL.dataset, "3d_fullres", "0", "-tr", "T", "-p", "P", "-device", "cpu", *flags]
    assert trainers == str(trainers_folder())


@pytest.mark.parametrize(("files", "flags"), [([], ["--npz"]), (["checkpoint_final.pth"], ["--npz", "--val"])])
def test_validation_that_saves_probabilities(log: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], flags: list[str]) -> None:
    for name in files:
        touch(name)
    run(log, SHOW, monkeypatch, npz=True)
    assert json.loads(log.read_text())[0][9:] == flags
    with pytest.raises(StateError, match=r"-tr T -p P( --val)? --npz -device cpu failed: "):
        run(log, "raise SystemExit(1)", monkeypatch, npz=True)


def test_log_is_not_written_through_a_link(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log.parent.mkdir(parents=True)
    (tmp_path / "outside").write_text("mine")
    log.symlink_to(tmp_path / "outside")
    run(log, SHOW, monkeypatch)
    assert (tmp_path / "outside").read_text() == "mine"
    assert "3d_fullres" in log.read_text()


def test_checkpoint_that_carries_code_is_refused_before_nnunet_starts(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch("checkpoint_best.pth")
    arm_checkpoint(MODEL.fold_folder(0) / "checkpoint_best.pth", tmp_path / "boom")
    with pytest.raises(StateError, match=r"checkpoint_best\.pth holds objects other than weights and numbers"):
        run(log, SHOW, monkeypatch)
    assert not log.exists()
    assert not (tmp_path / "boom").exists()


def test_nnunet_understands_the_arguments(monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    from nnunetv2.run import run_training

    touch("checkpoint_latest.pth")
    run(log, SHOW, monkeypatch)
    arguments, _ = json.loads(log.read_text())
    seen: list[Any] = []
    monkeypatch.setattr(run_training, "run_training", lambda *a, **k: seen.append((a, k)))
    monkeypatch.setattr(sys, "argv", ["nnUNetv2_train", *arguments])
    run_training.run_training_entry()
    positional, options = seen[0]
    assert positional[:5] == (MODEL.dataset, "3d_fullres", "0", "T", "P")
    assert True in positional[5:] + tuple(options.values())


def test_trainings_on_a_cpu_are_kept_from_fighting_over_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "nnUNet_n_proc_DA", "nnUNet_def_n_proc"):
        monkeypatch.delenv(name, raising=False)
    found = training_environment("cpu")
    assert (found["OMP_WAIT_POLICY"], found["nnUNet_n_proc_DA"]) == ("PASSIVE", "1")
    assert found["nnUNet_def_n_proc"] in ("1", "2")
    assert "OMP_WAIT_POLICY" not in training_environment("cuda")
    monkeypatch.setenv("nnUNet_n_proc_DA", "7")
    assert training_environment("cpu")["nnUNet_n_proc_DA"] == "7"
    assert os.environ.get("OMP_WAIT_POLICY") is None


def test_log_is_appended_to(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(log, "print('first')", monkeypatch)
    run(log, "import sys; print('second'); print('warned', file=sys.stderr)", monkeypatch)
    assert log.read_text().split() == ["first", "second", "warned"]


def test_failure_is_one_line_with_the_log(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StateError) as raised:
        run(log, "print('Epoch 0'); raise ValueError('no memory')", monkeypatch)
    assert (
        str(raised.value) == f"nnUNetv2_train 601 3d_fullres 0 -tr T -p P -device cpu failed: ValueError: no memory (whole output: {log})"
    )
    assert "Traceback" in log.read_text()


def test_a_full_gpu_is_the_reason_whatever_is_printed_after_it(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    after = "RuntimeError: One or more background workers are no longer alive. Exiting."
    with pytest.raises(StateError, match=rf"failed: {said} .*; end what else runs on that GPU, or use plans of a smaller preset"):
        run(log, f"import sys; print({said!r}); print({after!r}); sys.exit(1)", monkeypatch)


def test_silent_failure_names_the_exit_code(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StateError, match="failed: exit code 3"):
        run(log, "import sys; sys.exit(3)", monkeypatch)


def test_killed_training_is_a_failure(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StateError, match=r"failed: ended by signal 9 \(9: often for lack of memory\); its last line: Epoch 3"):
        run(log, "import os; print('Epoch 3', flush=True); os.kill(os.getpid(), 9)", monkeypatch)


LEAVES_A_WORKER = """
import multiprocessing, os, signal, time
def work():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(120)
worker = multiprocessing.get_context("fork").Process(target=work, daemon=True)
worker.start()
open({pid!r}, "w").write(str(worker.pid))
print("x" * 10_000, "Epoch 3", sep="\\n", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
"""A training that is killed, and whose worker process holds its output open for two minutes, whatever it is asked."""


@pytest.mark.timeout(60)
def test_killed_training_ends_with_its_workers(log: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(StateError, match=r"failed: ended by signal 9 .*; its last line: Epoch 3"):
        run(log, LEAVES_A_WORKER.format(pid=str(tmp_path / "pid")), monkeypatch)
    assert time.monotonic() - begun < 20
    assert not lives(int((tmp_path / "pid").read_text()))
    assert log.read_text() == "x" * 10_000 + "\nEpoch 3\n"


def test_progress_follows_nnunets_log(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Bar(tqdm_module.tqdm):  # type: ignore[type-arg]
        def update(self, n: float | None = 1) -> bool | None:
            done = super().update(n)
            seen.append(int(self.n))
            return done

    monkeypatch.setattr(training_process, "tqdm", Bar)
    lines = ["2026-01-01 10:00:00.0: Epoch 0 ", "Epoch time: 3 s", "2026-01-01 10:00:01.0: Epoch 1", "This is Epoch 7 of nothing"]
    run(log, f"print(*{lines!r}, sep='\\n')", monkeypatch)
    assert seen == [0, 1, 2]
    seen.clear()
    run(log, "print('Epoch 0')", monkeypatch, epochs=None)
    assert seen[-1] == 0


def test_interrupt_ends_the_training(log: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Bar(tqdm_module.tqdm):  # type: ignore[type-arg]
        def update(self, n: float | None = 1) -> bool | None:
            raise KeyboardInterrupt

    monkeypatch.setattr(training_process, "tqdm", Bar)
    pids = tmp_path / "pids"
    tell = f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{worker}}')"
    with pytest.raises(KeyboardInterrupt):
        run(log, f"import os, time; worker = os.fork(); worker and ({tell}, print('Epoch 0')); time.sleep(60)", monkeypatch)
    assert [lives(int(pid)) for pid in pids.read_text().split()] == [False, False]


# ---- what is done


def test_latest_checkpoint_goes_when_the_final_one_is_there(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nnU-Net removes it itself, unless it is killed right after it has written the final one."""
    for name in ("checkpoint_latest.pth", "checkpoint_best.pth"):
        touch(name)
    run(log, SHOW, monkeypatch)
    assert (MODEL.fold_folder(0) / "checkpoint_latest.pth").exists()
    touch("checkpoint_final.pth")
    run(log, SHOW, monkeypatch)
    assert sorted(f.name for f in MODEL.fold_folder(0).iterdir()) == ["checkpoint_best.pth", "checkpoint_final.pth"]


def test_full_disk_is_named_and_says_what_to_do(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = "print('OSError: [Errno 28] No space left on device: /r/checkpoint_latest.pth'); print('a worker ended'); raise SystemExit(1)"
    with pytest.raises(StateError) as raised:
        run(log, entry, monkeypatch)
    line = "failed: OSError: [Errno 28] No space left on device: /r/checkpoint_latest.pth (whole output: "
    assert line in str(raised.value)
    assert str(raised.value).endswith("make space there and give the same command again: it continues")


def test_a_log_that_cannot_grow_does_not_end_a_training(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log.parent.mkdir()
    log.symlink_to("/dev/full")
    run(log, "print('Epoch 0'); print('x' * 100_000); print('Epoch 1')", monkeypatch)
    with pytest.raises(StateError, match="failed: ValueError: no memory"):
        run(log, "raise ValueError('no memory')", monkeypatch)
