"""Stage after stage from evidence by hand: sizes, order, agreement with the student, and what is refused."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from tiny_setup import (
    DATASET,
    POOL,
    Project,
    evidence_of,
    grow_stage,
    open_tiny_run,
    phantom,
    teacher_store,
    write_evidence,
    write_student,
)

from nnunet_ssl.data.evidence_store import EvidenceStore
from nnunet_ssl.data.stage_sidecar import read_sidecar
from nnunet_ssl.data.workspace_lock import changing_run
from nnunet_ssl.errors import SetupError, StateError
from nnunet_ssl.locations import STAGE_SIDECAR
from nnunet_ssl.pseudolabel.rewrite_stage import rewrite_stage


def begin(project: Project, **settings: Any) -> Any:
    """A run with evidence of the teacher."""
    run = open_tiny_run(project, settings={k.replace("__", "."): v for k, v in settings.items()})
    write_evidence(teacher_store(run))
    return run


def rows(run: Any, stage: int) -> list[dict[str, str]]:
    with (run.workspace / f"ranking_{stage}.csv").open() as file:
        return list(csv.DictReader(file))


def stage_label(project: Project, dataset: str, case: str) -> Any:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(project.raw / dataset / "labelsTr" / f"{case}.nii.gz")))


def shifted(case: str) -> Any:
    """The true label, half a voxel worse: the ball without its outermost shell on one side."""
    label = phantom(case)[1].copy()
    first = int(np.flatnonzero(label.any(axis=(1, 2)))[0])
    label[first] = 0
    return label


def test_first_stage(taught_project: Project) -> None:
    run = begin(taught_project)
    record = grow_stage(run)
    assert (record.stage, record.dataset, record.fraction, record.num_epochs) == (1, "Dataset601_Tiny_f0s1", 0.5, 1)
    assert record.cases == POOL[:3]
    assert (record.agreement_weight, record.label_stage, record.kept_previous, record.change) == (0.0, None, False, None)
    # every confidence is (1 - d)(1 - d^2) with doubts of 0.05, 0.1 and 0.15, above tau = 0.7
    assert record.share_confident == 1.0
    assert record.score_range is not None
    assert record.score_range[0] < record.score_range[1]
    table = rows(run, 1)
    assert [r["case"] for r in table] == POOL
    assert [r["stage"] for r in table] == ["1", "1", "1", "", "", ""]
    assert [float(r["score"]) for r in table] == sorted((float(r["score"]) for r in table), reverse=True)
    assert {r["stratum"] for r in table} == {"rim+core"}
    assert float(table[0]["score"]) == pytest.approx(record.score_range[1], abs=1e-6)
    assert int(table[0]["foreground_voxels"]) == int((phantom("pool_0")[1] > 0).sum())
    assert open_tiny_run(taught_project).manifest.stages == [record]


def test_second_stage_without_agreement(taught_project: Project) -> None:
    run = begin(taught_project, agreement__weight=0.0)
    first = grow_stage(run)
    folder = write_student(run, 1)
    second = grow_stage(run)
    assert second.cases[:3] == first.cases
    assert second.cases == POOL
    assert (second.dataset, second.num_epochs, second.fraction) == ("Dataset602_Tiny_f0s2", 1, 1.0)
    assert (second.agreement_weight, second.label_stage, second.kept_previous) == (0.0, None, False)
    assert second.change == {"rim": 0.0, "core": 0.0}
    assert [r["stage"] for r in rows(run, 2)] == ["1", "1", "1", "2", "2", "2"]
    sidecar = read_sidecar(taught_project.raw / second.dataset)
    assert sidecar is not None
    assert sidecar["init"] == "previous"
    assert taught_project.results / sidecar["init_checkpoint"] == folder / "checkpoint_final.pth"
    assert not (run.workspace / "evidence" / "student_s1").exists()
    with pytest.raises(StateError, match=r"the curriculum of .* is complete: 2 stages are written"):
        grow_stage(run)


def test_agreement_with_the_student(taught_project: Project, caplog: pytest.LogCaptureFixture) -> None:
    run = begin(taught_project, agreement__weight=0.6, agreement__max_change=0.5)
    grow_stage(run)
    write_student(run, 1)
    write_evidence(run.student_store(1), label=shifted, doubt=lambda case: 0.1)
    with caplog.at_level(logging.INFO, "nnunet_ssl"):
        record = grow_stage(run)
    assert (record.agreement_weight, record.label_stage, record.kept_previous) == (0.6, 1, False)
    assert record.change is not None
    assert 0 < record.change["rim"] < 0.2
    assert "labels against stage 1: rim " in caplog.text
    # the student has the larger share where they differ
    assert np.array_equal(stage_label(taught_project, record.dataset, "pool_0"), shifted("pool_0"))
    assert np.array_equal(stage_label(taught_project, "Dataset601_Tiny_f0s1", "pool_0"), phantom("pool_0")[1])


def test_stage_with_labels_of_a_student_that_was_trained_anew_since(taught_project: Project) -> None:
    """A kill before the manifest left the stage whole, and nobody knows of it."""
    run = begin(taught_project, agreement__weight=0.6, agreement__max_change=0.5)
    grow_stage(run)
    write_student(run, 1)
    write_evidence(run.student_store(1), doubt=lambda case: 0.1)
    first = grow_stage(run)
    run.manifest.stages.pop()
    run.manifest.save(run.workspace)
    shutil.rmtree(run.student(1).folder)
    write_student(run, 1, seed=9)
    write_evidence(run.student_store(1), label=shifted, doubt=lambda case: 0.1)
    second = grow_stage(run)
    assert second.cases == first.cases
    assert np.array_equal(stage_label(taught_project, second.dataset, "pool_0"), shifted("pool_0"))


def test_labels_that_change_too_much_are_kept(taught_project: Project, caplog: pytest.LogCaptureFixture) -> None:
    run = begin(taught_project, agreement__weight=0.9, curriculum__fractions=[0.3, 0.6, 1.0], student__length__num_epochs=3)
    grow_stage(run)
    write_student(run, 1)
    write_evidence(run.student_store(1), label=lambda case: np.minimum(phantom(case)[1], 1), doubt=lambda case: 0.05)
    with caplog.at_level(logging.WARNING, "nnunet_ssl"):
        second = grow_stage(run)
    assert (second.agreement_weight, second.label_stage, second.kept_previous) == (0.0, None, True)
    assert second.change is not None
    assert second.change["core"] == 1.0
    assert "more than the 10 % allowed: the labels of stage 1 are kept" in caplog.text
    assert np.array_equal(stage_label(taught_project, second.dataset, "pool_0"), phantom("pool_0")[1])
    # the next student may do better: it is compared with the labels that were kept
    write_student(run, 2)
    write_evidence(run.student_store(2), doubt=lambda case: 0.05)
    third = grow_stage(run)
    assert (third.agreement_weight, third.label_stage, third.kept_previous) == (0.9, 2, False)
    assert third.change == {"rim": 0.0, "core": 0.0}


def test_labels_that_settle_are_announced(taught_project: Project, caplog: pytest.LogCaptureFixture) -> None:
    run = begin(taught_project)
    grow_stage(run)
    write_student(run, 1)
    write_evidence(run.student_store(1))
    with caplog.at_level(logging.INFO, "nnunet_ssl"):
        grow_stage(run)
    assert "less than 1.0 % changed: the labels have settled" in caplog.text


@pytest.mark.parametrize("weight", [0.5, 0.0])
def test_second_stage_needs_the_first_student(taught_project: Project, weight: float) -> None:
    run = begin(taught_project, agreement__weight=weight)
    grow_stage(run)
    assert not run.is_trained(1)
    with pytest.raises(SetupError, match="the student of stage 1 is not trained yet"):
        grow_stage(run)


def test_rescoring_predicts_nothing(taught_project: Project) -> None:
    run = begin(taught_project)
    teacher_store(run).path("pool_3").unlink()
    with pytest.raises(StateError, match=r"evidence of case 'pool_3' is missing .*without --rescore"):
        grow_stage(run, rescore=True)
    assert not (taught_project.raw / "Dataset601_Tiny_f0s1").exists()
    assert run.manifest.stages == []
    write_evidence(teacher_store(run))
    assert grow_stage(run, rescore=True).cases == POOL[:3]


@pytest.mark.parametrize(("doubt", "is_said"), [(0.02, False), (0.6, True)])
def test_labels_that_teach_nothing_are_named(
    taught_project: Project, caplog: pytest.LogCaptureFixture, doubt: float, is_said: bool
) -> None:
    run = open_tiny_run(taught_project)
    write_evidence(teacher_store(run), doubt=lambda _: doubt)
    with caplog.at_level(logging.WARNING, "nnunet_ssl"):
        grow_stage(run)
    assert ("of the foreground of stage 1 only 0.0 % is confident enough to be learned" in caplog.text) == is_said


def test_class_that_no_label_contains_is_named(taught_project: Project, caplog: pytest.LogCaptureFixture) -> None:
    run = open_tiny_run(taught_project)
    write_evidence(teacher_store(run), label=lambda case: np.minimum(phantom(case)[1], 1))
    with caplog.at_level(logging.WARNING, "nnunet_ssl"):
        grow_stage(run)
    assert "no chosen pseudo-label contains the class 'core'" in caplog.text
    assert "'rim'" not in caplog.text


def test_class_that_no_training_label_has_is_not_missed(
    taught_project: Project, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nnunet_ssl.pseudolabel.grow.classes_in_labels", lambda setup, cases: {"rim"} if "lab_0" not in cases else set())
    run = open_tiny_run(taught_project)
    write_evidence(teacher_store(run), label=lambda case: np.minimum(phantom(case)[1], 1))
    with caplog.at_level(logging.WARNING, "nnunet_ssl"):
        grow_stage(run)
    assert "no chosen pseudo-label" not in caplog.text


def test_case_in_which_nothing_is_found_comes_last(taught_project: Project) -> None:
    run = begin(taught_project)
    teacher_store(run).write("pool_0", evidence_of(np.zeros_like(phantom("pool_0")[1]), doubt=0.0))
    record = grow_stage(run)
    assert "pool_0" not in record.cases
    last = rows(run, 1)[-1]
    assert (last["case"], last["score"], last["review"], last["stratum"], last["confident_share"]) == ("pool_0", "", "yes", "none", "")


@pytest.mark.parametrize(("order", "expected"), [("reverse", POOL[:2:-1]), ("all-at-once", POOL)])
def test_controls(taught_project: Project, order: str, expected: list[str]) -> None:
    run = begin(taught_project, curriculum__order=order)
    record = grow_stage(run)
    assert record.cases == expected
    if order == "all-at-once":
        assert (record.fraction, record.num_epochs, run.next_stage) == (1.0, 2, None)


def test_random_order_is_the_seeds(taught_project: Project) -> None:
    orders = set()
    for seed in (1, 1, 2, 3):
        run = begin(taught_project, curriculum__order="random", curriculum__seed=seed)
        orders.add((seed, *grow_stage(run).cases))
        run.manifest.stages.clear()
        run.manifest.save(run.workspace)
    assert len(orders) == 3
    assert len({cases for _, *cases in orders for cases in [tuple(cases)]}) > 1


def test_other_case_scores_rank(taught_project: Project) -> None:
    run = begin(taught_project, evidence__case_score="mean")
    record = grow_stage(run)
    table = rows(run, 1)
    assert [r["score"] for r in table] == [r["mean"] for r in table]
    assert record.score_range == pytest.approx((float(table[2]["mean"]), float(table[0]["mean"])), abs=1e-6)


def test_two_runs_from_the_same_evidence_are_equal(taught_project: Project, tmp_path: Path) -> None:
    run = begin(taught_project)
    grow_stage(run)
    table = (run.workspace / "ranking_1.csv").read_bytes()
    targets = taught_project.preprocessed / "Dataset601_Tiny_f0s1"
    before = {f.name: f.read_bytes() for f in sorted(targets.rglob("*__nnssl/*"))}
    run.manifest.stages.clear()
    run.manifest.save(run.workspace)
    for root in (taught_project.raw, taught_project.preprocessed):
        (root / "Dataset601_Tiny_f0s1").rename(tmp_path / f"first_{root.name}")
    grow_stage(open_tiny_run(taught_project))
    assert (run.workspace / "ranking_1.csv").read_bytes() == table
    assert len(before) == 3
    assert {f.name: f.read_bytes() for f in sorted(targets.rglob("*__nnssl/*"))} == before


def test_evidence_of_teacher_and_student_lie_apart(taught_project: Project) -> None:
    run = begin(taught_project)
    grow_stage(run)
    write_student(run, 1)
    teacher, student = teacher_store(run), run.student_store(1)
    assert isinstance(student, EvidenceStore)
    assert teacher.folder != student.folder
    assert teacher.source != student.source
    assert run.workspace in teacher.folder.parents
    assert run.workspace in student.folder.parents
    # evidence of a student that was trained again is another's
    write_evidence(student)
    assert student.has("pool_0")
    folder = run.student(1).fold_folder(0)
    (folder / "checkpoint_final.pth").write_bytes((folder / "checkpoint_final.pth").read_bytes() + b" ")
    assert not run.student_store(1).has("pool_0")


def test_workspace_lies_in_the_teachers_fold(taught_project: Project) -> None:
    run = begin(taught_project)
    assert run.workspace.parent == run.teacher.fold_folder(0)
    assert DATASET in run.workspace.parts


@pytest.mark.parametrize("held_out", [None, "lab_0", [0]])
def test_sidecar_of_the_stage_before_does_not_say_what_was_held_out(taught_project: Project, held_out: Any) -> None:
    run = begin(taught_project, agreement__weight=0.0)
    first = grow_stage(run)
    write_student(run, 1)
    path = taught_project.preprocessed / first.dataset / STAGE_SIDECAR
    sidecar = json.loads(path.read_text())
    del sidecar["validation_cases"]
    path.write_text(json.dumps(sidecar if held_out is None else {**sidecar, "validation_cases": held_out}))
    with pytest.raises(StateError, match=rf"{path} is damaged \(no list .* 'validation_cases'\); write the stage again with nnssl_pseudo"):
        grow_stage(run)
    rewrite_stage(run, 1, device=torch.device("cpu"))
    assert grow_stage(run).stage == 2


# ---- two processes at once


def test_another_process_writes_a_stage_of_the_run(taught_project: Project) -> None:
    run = begin(taught_project)
    with changing_run(run.workspace), pytest.raises(StateError, match=r"another process is writing a stage of .*nnssl, or .*; wait for it"):
        grow_stage(run)
    assert open_tiny_run(taught_project).manifest.stages == []
    assert grow_stage(run).stage == 1  # the lock is given back


def test_another_process_has_written_the_stage_meanwhile(taught_project: Project) -> None:
    run, other = begin(taught_project), open_tiny_run(taught_project)
    grow_stage(other)
    before = (run.workspace / "manifest.json").read_bytes()
    with pytest.raises(StateError, match=r"another process has changed the run in .*nnssl in the meantime; give the command again"):
        grow_stage(run)
    assert (run.workspace / "manifest.json").read_bytes() == before
