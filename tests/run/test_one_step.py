"""`nnssl_run --only`: one step at a time, with the exit codes that schedulers act on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_setup import PLANS, Project, mtimes, pretend_training, write_evidence

from nnunet_ssl.cli.run import main
from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.pseudolabel import gather

CALL = ["-d", "137", "-c", "3d_fullres", "-p", PLANS, "-device", "cpu", "--num-samples", "2", "-np", "1"]


@pytest.fixture(autouse=True)
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trainings and sweeps that take no time; which teachers and students were trained."""
    asked: list[str] = []

    def pretend(model: ModelLocation, fold: int | str, *, device: str, log: Path, epochs: int | None, npz: bool = False) -> None:
        asked.append(log.stem)
        pretend_training(model, fold)

    monkeypatch.setattr("nnunet_ssl.run.pipeline.train", pretend)
    monkeypatch.setattr(gather, "_gather", lambda run, model, fold, cases, folder, store, *_: write_evidence(store, list(cases)))
    return asked


def call(capsys: Any, *flags: str, code: int = 0) -> str:
    assert main([*CALL, *flags]) == code
    captured = capsys.readouterr()
    return str(captured.out if code == 0 else captured.err)


def test_steps_one_by_one(fresh_project: Project, capsys: Any, trainings: list[str]) -> None:
    pool = ["-f", "0", "-u", str(fresh_project.unlabelled)]
    names = [line.split("]")[1].split()[0] for line in call(capsys, *pool, "--dry-run").splitlines() if line.lstrip()[0].isdigit()]
    assert names == ["pool", "teacher", "stage-1", "student-1", "stage-2", "student-2", "publish"]
    for done, name in enumerate(names):
        for later in names[done + 1 : done + 2]:
            err = call(capsys, *pool, "--only", later, code=3)
            assert f"nnssl_run: error: --only {later}: {name} must come first (" in err
        out = call(capsys, *pool, "--only", name)
        following = names[done + 1] if name != "publish" else None
        assert ("next: nnUNetv2_predict" in out) == (following is None)
        assert following is None or out.endswith(f"next: the same command with --only {following}\n")
        before = mtimes(fresh_project.raw, fresh_project.preprocessed, fresh_project.results)
        assert f"{name} (" in (again := call(capsys, *pool, "--only", name))
        assert "): done before\n" in again
        assert mtimes(fresh_project.raw, fresh_project.preprocessed, fresh_project.results) == before
    assert trainings == ["teacher_fold_0", "student_1", "student_2"]


def test_pool_that_is_no_step_must_be_there(fresh_project: Project, capsys: Any, trainings: list[str]) -> None:
    assert "--only teacher: no pool is prepared for" in call(capsys, "-f", "0", "--only", "teacher", code=3)
    assert "this run has no such step; it has: teacher, stage-1, " in call(capsys, "-f", "0", "--only", "pool", code=2)
    assert trainings == []
    fresh_project.prepare_pool()
    call(capsys, "-f", "0", "--only", "teacher")
    assert trainings == ["teacher_fold_0"]


def test_teachers_need_not_wait_for_each_other(project: Project, capsys: Any, trainings: list[str]) -> None:
    for fold in (3, 1, 0, 4):
        call(capsys, "-f", "all", "--only", f"teacher-{fold}")
    assert "teacher-2 must come first (train the teacher (fold 2)), and is not done." in call(
        capsys, "-f", "all", "--only", "stage-1", code=3
    )
    assert "next: the same command with --only stage-1" in call(capsys, "-f", "all", "--only", "teacher-2")
    assert trainings == [f"teacher_fold_{fold}" for fold in (3, 1, 0, 4, 2)]


def test_device_is_needed_by_networks_alone(fresh_project: Project, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool is prepared on machines without a GPU; a step that is done needs none either."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_gpu = ["-f", "0", "-u", str(fresh_project.unlabelled), "-device", "cuda"]
    call(capsys, *on_gpu, "--only", "pool")
    assert "-device cuda: PyTorch finds no CUDA device" in call(capsys, *on_gpu, "--only", "teacher", code=2)
    call(capsys, *on_gpu[:-2], "--only", "teacher")
    call(capsys, *on_gpu, "--only", "teacher")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-f", "0", "1", "--only", "teacher"], "-f 0 1: --only is a step of one fold at a time."),
        (["-f", "0", "--only", "teacher", "--status"], "--only does one step; leave out --audit, --status and --dry-run."),
        (["-f", "0", "--only", "stage-3"], "--only stage-3: this run has no such step; it has: teacher, stage-1, student-1, stage-2,"),
    ],
)
def test_what_cannot_be_one_step(project: Project, capsys: Any, flags: list[str], message: str) -> None:
    assert message in call(capsys, *flags, code=2)
