"""Writing a stage again: the same files, whatever has happened to them since, or those of new settings, which the manifest then has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_setup import Project, digests, evidence_of, grow_stage, open_tiny_run, phantom, teacher_store, write_evidence, write_student

from nnunet_ssl.data.manifest import Manifest
from nnunet_ssl.data.stage_sidecar import read_sidecar
from nnunet_ssl.errors import ConfigError, StateError
from nnunet_ssl.pseudolabel.control_run import control_method
from nnunet_ssl.pseudolabel.rewrite_stage import rewrite_stage

CPU = torch.device("cpu")
STAGE = "Dataset601_Tiny_f0s1"


def test_every_stage_can_be_written_again(taught_project: Project) -> None:
    run = open_tiny_run(taught_project, settings={"agreement.weight": 0.6, "agreement.max_change": 1.0})
    write_evidence(teacher_store(run))
    first = grow_stage(run)
    write_student(run, 1)
    write_evidence(run.student_store(1), label=lambda case: phantom(case)[1].clip(max=1), doubt=lambda case: 0.1)
    second = grow_stage(run)
    manifest = (run.workspace / "manifest.json").read_bytes()
    for record in (first, second):
        folders = (taught_project.raw / record.dataset, taught_project.preprocessed / record.dataset)
        whole = [digests(sorted(folder.rglob("*.*"))) for folder in folders]
        shutil.rmtree(folders[0])  # lost
        next(folders[1].glob("*__nnssl/pool_0.b2nd")).write_bytes(b"")  # damaged
        assert rewrite_stage(open_tiny_run(taught_project), record.stage, device=CPU) == record
        assert [digests(sorted(folder.rglob("*.*"))) for folder in folders] == whole
    assert (run.workspace / "manifest.json").read_bytes() == manifest


def write_stages(project: Project, count: int) -> Any:
    """A run with its first stages, and their students but for the last one's; labels are the teacher's alone."""
    run = open_tiny_run(project, settings={"agreement.weight": 0.0, "student.length.num_epochs": 4})
    write_evidence(teacher_store(run), doubt=lambda case: 0.25)
    for stage in range(1, count + 1):
        if stage > 1:
            write_student(run, stage - 1)
        grow_stage(run)
    return run


def saved(run: Any) -> Manifest:
    manifest = Manifest.load(run.workspace)
    assert manifest is not None
    return manifest


def test_new_settings_of_the_newest_stage_are_the_runs(taught_project: Project) -> None:
    run = write_stages(taught_project, 2)
    before = run.manifest.stages[1]
    assert (before.num_epochs, before.tau, before.share_confident) == (2, 0.7, 1.0)
    settings = {"student.length.num_epochs": 12, "student.tau": 0.99, "student.targets": "hard"}
    record = rewrite_stage(open_tiny_run(taught_project, settings=settings), 2, device=CPU)
    assert (record.num_epochs, record.tau, record.cases) == (6, 0.99, before.cases)
    assert record.share_confident < 1
    assert read_sidecar(taught_project.raw / record.dataset)["num_epochs"] == 6  # type: ignore[index]
    manifest = saved(run)
    assert manifest.stages[1] == record
    assert manifest.method.student.targets == "hard"
    # what its control repeats
    control = control_method(open_tiny_run(taught_project), "supervised")
    assert control.curriculum.stage_epochs(control.student.length.num_epochs) == (2, 6)
    assert (control.student.tau, control.student.targets) == (0.99, "hard")


def test_new_settings_of_an_earlier_stage_are_its_own(taught_project: Project) -> None:
    run = write_stages(taught_project, 2)
    before = saved(run)
    rewrite_stage(open_tiny_run(taught_project, settings={"student.length.num_epochs": 12, "student.tau": 0.99}), 1, device=CPU)
    after = saved(run)
    assert [(stage.num_epochs, stage.tau) for stage in after.stages] == [(6, 0.99), (2, 0.7)]
    assert (after.stages[1], after.method) == (before.stages[1], before.method)


@pytest.mark.parametrize(
    ("path", "value"), [("agreement.weight", 0.5), ("evidence.case_score", "mean"), ("evidence.confidence", "calibrated")]
)
def test_settings_that_a_stage_keeps(taught_project: Project, path: str, value: Any) -> None:
    run = write_stages(taught_project, 1)
    before = (run.workspace / "manifest.json").read_bytes()
    with pytest.raises(ConfigError, match=f"--stage 1: {path} = {json.dumps(value)} is refused: a stage that is written again keeps its"):
        rewrite_stage(open_tiny_run(taught_project, settings={path: value}), 1, device=CPU)
    assert (run.workspace / "manifest.json").read_bytes() == before


def test_stage_keeps_its_confidence(taught_project: Project) -> None:
    """The run has another one since stage 2; labels of stage 1 are those that its student has learnt from."""
    run = write_stages(taught_project, 1)
    first = saved(run).stages[0]
    whole = digests(sorted(path for half in halves(taught_project) for path in half.rglob("*.*")))
    write_student(run, 1)
    write_evidence(run.student_store(1))
    later = open_tiny_run(taught_project, settings={"evidence.confidence": "calibrated"})
    splits = later.setup.fold_cases(0)[1]
    (store,) = later.held_out_stores().values()
    for case in splits:
        store.write(case, evidence_of(phantom(case)[1], doubt=0.1))
    grow_stage(later)
    for settings in ({}, {"evidence.confidence": "paper"}):
        assert rewrite_stage(open_tiny_run(taught_project, settings=settings), 1, device=CPU) == first
        assert digests(sorted(path for half in halves(taught_project) for path in half.rglob("*.*"))) == whole
        assert saved(run).method.evidence.confidence == "calibrated"
    shutil.rmtree(taught_project.preprocessed / STAGE)
    assert rewrite_stage(open_tiny_run(taught_project), 1, device=CPU) == first


def halves(project: Project) -> tuple[Path, Path]:
    return project.raw / STAGE, project.preprocessed / STAGE


def test_a_stage_whose_sidecars_are_lost_or_damaged(taught_project: Project) -> None:
    write_stages(taught_project, 1)
    raw, preprocessed = halves(taught_project)
    whole = digests(sorted(raw.rglob("*.*")) + sorted(preprocessed.rglob("*.*")))
    for damaged, lost in (([], [raw]), ([preprocessed], []), ([preprocessed], [raw])):
        for half in lost:
            (half / "nnssl.json").unlink()
        for half in damaged:
            (half / "nnssl.json").write_text("{")
        rewrite_stage(open_tiny_run(taught_project), 1, device=CPU)
        assert digests(sorted(raw.rglob("*.*")) + sorted(preprocessed.rglob("*.*"))) == whole


def test_an_interruption_while_the_old_files_are_removed(taught_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    write_stages(taught_project, 1)
    raw, preprocessed = halves(taught_project)
    whole = digests(sorted(raw.rglob("*.*")) + sorted(preprocessed.rglob("*.*")))

    def remove_in_part(folder: Path, **_: Any) -> None:
        next(folder.rglob("nnssl.json")).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", remove_in_part)
        with pytest.raises(KeyboardInterrupt):
            rewrite_stage(open_tiny_run(taught_project), 1, device=CPU)
    assert not raw.exists()
    rewrite_stage(open_tiny_run(taught_project), 1, device=CPU)
    assert digests(sorted(raw.rglob("*.*")) + sorted(preprocessed.rglob("*.*"))) == whole


@pytest.mark.parametrize("kind", ["another name", "another run"])
def test_what_is_somebody_elses_stays(taught_project: Project, kind: str) -> None:
    write_stages(taught_project, 1)
    raw, preprocessed = halves(taught_project)
    if kind == "another name":
        (taught_project.raw / "Dataset601_Heart").mkdir()
    else:
        (raw / "nnssl.json").write_text(json.dumps({"workspace": "another"}))
    before = digests(sorted(raw.rglob("*.*")) + sorted(preprocessed.rglob("*.*")))
    with pytest.raises(StateError, match="the dataset id 601 is already in use"):
        rewrite_stage(open_tiny_run(taught_project), 1, device=CPU)
    assert digests(sorted(raw.rglob("*.*")) + sorted(preprocessed.rglob("*.*"))) == before


@pytest.mark.parametrize(
    ("written", "stage", "message"), [(0, 1, "none is written"), (1, 2, "stage 1 alone is"), (1, 0, "stage 1 alone is")]
)
def test_a_stage_that_was_not_written(taught_project: Project, written: int, stage: int, message: str) -> None:
    run = open_tiny_run(taught_project)
    write_evidence(teacher_store(run))
    for _ in range(written):
        grow_stage(run)
    with pytest.raises(ConfigError, match=f"--stage {stage}: {message}"):
        rewrite_stage(run, stage, device=CPU)
