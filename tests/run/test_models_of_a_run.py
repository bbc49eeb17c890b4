"""Models of a run that are lost, trained anew or of the user's own: which are trained again, and what is published."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from run_requests import done, run_request, trainings
from tiny_setup import OUR_TEACHER, Project, pretend_training

from nnunet_ssl.data.manifest import Manifest
from nnunet_ssl.errors import SetupError, StateError
from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.nnunet_api.earlier_training import set_aside
from nnunet_ssl.pseudolabel.publish import published_model
from nnunet_ssl.pseudolabel.rewrite_stage import rewrite_stage
from nnunet_ssl.run.pipeline import execute, pipeline, student_epochs, teacher_epochs

__all__ = ["trainings"]
"""A fixture."""


@pytest.fixture(autouse=True)
def _no_trainings(trainings: list[Any]) -> None:
    """None is real."""


def test_student_that_is_trained_anew_is_published(fresh_project: Project, trainings: list[Any]) -> None:
    """As after a stage was written again and the fold of its student removed."""
    asked = run_request(fresh_project)
    execute(pipeline(asked))
    run = asked.open()
    student, model = run.student(2).checkpoint(0), published_model(run).checkpoint(0)
    before = model.read_bytes()
    shutil.rmtree(student.parent)
    assert done(asked) == [True] * 5 + [False, True]  # what is published is all that is left of the student, until it is trained
    execute(pipeline(asked))
    assert len(trainings) == 4
    assert model.read_bytes() == student.read_bytes() != before
    assert done(asked) == [True] * 7


def test_earlier_student_that_is_no_longer_needed_is_not_trained_again(fresh_project: Project, trainings: list[Any]) -> None:
    """Its models may go when the last one is published; one whose stage is written again is to be trained anew."""
    asked = run_request(fresh_project)
    execute(pipeline(asked))
    run = asked.open()
    shutil.rmtree(run.student(1).folder)
    assert done(asked) == [True] * 7
    execute(pipeline(asked))
    assert len(trainings) == 3
    rewrite_stage(asked.open(), 1, device=torch.device("cpu"))
    assert done(asked) == [True] * 3 + [False] + [True] * 3
    # before the end it is needed
    manifest = Manifest.load(run.workspace)
    assert manifest is not None
    replace(manifest, published=False).save(run.workspace)
    shutil.rmtree(fresh_project.preprocessed / "Dataset601_Tiny_f0s1")
    assert done(asked)[3] is False


@pytest.mark.parametrize("fold", [0, "all"])
def test_teacher_that_a_run_has_lost_is_not_trained_again(
    fresh_project: Project, trainings: list[Any], fold: int | str, caplog: pytest.LogCaptureFixture
) -> None:
    asked = run_request(fresh_project, fold=fold)
    execute(pipeline(asked))
    lost = asked.teacher.checkpoint(0)
    lost.rename(lost.with_name("archived.pth"))
    trained = len(trainings)
    said = rf"the teacher of fold 0, which the run in \S+/fold_{fold}/nnssl uses, is gone: {lost} is missing; put it back, or remove"
    with pytest.raises(StateError, match=said):
        execute(pipeline(asked))
    with pytest.raises(StateError, match=said):
        asked.begun()
    assert len(trainings) == trained
    lost.with_name("archived.pth").rename(lost)
    assert all(done(asked))
    # a run that has not begun needs none
    lost.unlink()
    shutil.rmtree(lost.with_name("validation"))
    (asked.workspace / "manifest.json").unlink()
    execute(pipeline(asked)[:2])
    assert len(trainings) == trained + 1


def test_stock_teacher_that_a_run_has_trained_is_validated(project: Project, trainings: list[Any]) -> None:
    """Its training was killed in the validation; that of the user's own is not looked at."""
    asked = run_request(project, teacher_trainer="nnUNetTrainer", unlabelled=())
    folder = pretend_training(asked.teacher)
    summary = folder / "validation" / "summary.json"
    kept = summary.read_text()
    summary.unlink()
    assert done(asked)[0] is True
    (asked.workspace / "logs").mkdir(parents=True)
    (asked.workspace / "logs" / "teacher_fold_0.txt").touch()
    assert done(asked)[0] is False
    summary.write_text(kept)
    assert done(asked)[0] is True


def test_student_that_is_trained_over_by_hand_is_published(fresh_project: Project, trainings: list[Any]) -> None:
    """Until then weights and figures stay those of one student: our trainers replace a checkpoint, nnU-Net writes its summary in place."""
    asked = run_request(fresh_project)
    execute(pipeline(asked))
    run = asked.open()
    student, model = run.student(2), published_model(run)
    figures = model.validation_summary(0).read_text()
    checkpoint = torch.load(student.checkpoint(0), weights_only=False)
    for value in checkpoint["network_weights"].values():
        value += 1
    torch.save(checkpoint, student.checkpoint(0).with_name("anew"))
    student.checkpoint(0).with_name("anew").replace(student.checkpoint(0))
    assert done(asked) == [True] * 6 + [False]
    execute(pipeline(asked))
    student.validation_summary(0).write_text(json.dumps({"foreground_mean": {"Dice": 0.9}}))
    assert model.validation_summary(0).read_text() == figures
    assert done(asked) == [True] * 6 + [False]
    execute(pipeline(asked))
    assert model.checkpoint(0).read_bytes() == student.checkpoint(0).read_bytes()
    assert model.validation_summary(0).read_text() == student.validation_summary(0).read_text() != figures
    assert done(asked) == [True] * 7
    assert len(trainings) == 3


def test_published_copy_is_the_student(fresh_project: Project, trainings: list[Any]) -> None:
    """Where file systems have no links, or results were copied to another machine."""
    asked = run_request(fresh_project)
    execute(pipeline(asked))
    model = published_model(asked.open()).checkpoint(0)
    content = model.read_bytes()
    model.unlink()
    model.write_bytes(content)
    assert done(asked) == [True] * 7


def test_trained_stock_teacher_is_taken_as_it_is(project: Project, trainings: list[Any]) -> None:
    asked = run_request(project, teacher_trainer="nnUNetTrainer", unlabelled=())
    assert done(asked)[0] is False
    folder = pretend_training(asked.teacher)
    (folder / "validation" / "summary.json").unlink()  # whether its user validated it is not our business
    assert done(asked)[0] is True
    assert teacher_epochs(asked) is None
    assert "-tr SemiSupervisedStudentTrainer" in pipeline(asked)[2].command
    execute(pipeline(asked)[:2])
    assert trainings == []
    assert asked.open().manifest.student_trainer == "SemiSupervisedStudentTrainer"
    assert student_epochs(asked.open(), 1) == 1


@pytest.mark.parametrize("trainer", [OUR_TEACHER, "PatientTeacher"])
def test_our_teacher_is_done_when_it_is_validated(project: Project, trainer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from nnunet_ssl.training.teacher import TransASPPTeacherTrainer\nclass PatientTeacher(TransASPPTeacherTrainer): pass\n"
    (tmp_path / "patient_teacher.py").write_text(source)
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    asked = run_request(project, unlabelled=(), teacher_trainer=trainer)
    assert teacher_epochs(asked) == 2
    folder = pretend_training(asked.teacher)
    assert done(asked)[0] is True
    (folder / "validation" / "summary.json").unlink()
    assert done(asked)[0] is False


def train_anew(model: ModelLocation, fold: int) -> Path:
    """Leave what a training without `--c` leaves of a finished teacher once it has saved a checkpoint; returns its fold's folder."""
    folder = model.fold_folder(fold)
    latest = folder / "checkpoint_latest.pth"
    shutil.copy(model.checkpoint(fold), folder / "new")
    set_aside(latest)
    (folder / "new").rename(latest)
    return folder


@pytest.mark.parametrize(("fold", "teacher_folds", "anew"), [(0, None, 0), ("all", (0, 1), 1)])
def test_teacher_of_a_run_is_not_trained_anew_to_its_end(
    project: Project, trainings: list[Any], fold: Any, teacher_folds: Any, anew: int
) -> None:
    """The run knows the one before alone, of which the new one would remove the last copy."""
    asked = run_request(project, fold=fold, teacher_folds=teacher_folds, unlabelled=())
    count = len(asked.folds)
    execute(pipeline(asked)[:count])
    asked.open()
    trained, before = len(trainings), asked.teacher.checkpoint(anew).read_bytes()
    folder = train_anew(asked.teacher, anew)
    said = rf"^the teacher of fold {anew}, which the run in \S+/fold_{fold}/nnssl uses, is being trained anew; .*manifest\.json and train"
    with pytest.raises(StateError, match=said):
        execute(pipeline(asked))
    with pytest.raises(StateError, match=said):
        asked.open()
    assert len(trainings) == trained
    assert (folder / "earlier_checkpoint_final.pth").read_bytes() == before
    # the way back that the message names
    (folder / "checkpoint_latest.pth").unlink()
    for place in (folder / "earlier_checkpoint_final.pth", folder / "validation" / "earlier_summary.json"):
        place.rename(place.with_name(place.name.removeprefix("earlier_")))
    assert done(asked)[:count] == [True] * count


def test_teacher_that_is_trained_anew_is_continued_where_no_run_uses_it(project: Project, trainings: list[Any]) -> None:
    asked = run_request(project, unlabelled=())
    execute(pipeline(asked)[:1])
    folder = train_anew(asked.teacher, 0)
    with pytest.raises(SetupError, match=r"the teacher of fold 0 is not trained .* --c$"):
        asked.open()
    shutil.rmtree(folder / "validation")  # which the pretended training makes
    execute(pipeline(asked)[:1])
    assert len(trainings) == 2
