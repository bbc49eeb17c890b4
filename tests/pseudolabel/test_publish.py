"""The last student as a model of the labelled dataset, which nnU-Net's own inference takes."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from tiny_setup import (
    CONFIGURATION,
    DATASET,
    OUR_STUDENT,
    PLANS,
    Project,
    grow_stage,
    mtimes,
    open_tiny_run,
    teacher_store,
    write_evidence,
    write_student,
    write_teacher,
)

from nnunet_ssl.data.files import TEMPORARY_PREFIX
from nnunet_ssl.errors import SetupError, StateError
from nnunet_ssl.locations import results_root
from nnunet_ssl.nnunet_api.earlier_training import set_aside
from nnunet_ssl.pseudolabel.publish import is_published, publish, published_model


@pytest.fixture
def finished(taught_project: Project) -> Any:
    """A run whose students of both stages are there."""
    run = open_tiny_run(taught_project, settings={"agreement.weight": 0.0})
    write_evidence(teacher_store(run))
    for stage in (1, 2):
        grow_stage(run)
        write_student(run, stage, seed=stage)
    return run


def test_published_model_is_one_of_the_labelled_dataset(finished: Any) -> None:
    model = publish(finished)
    assert model == published_model(finished)
    assert model.folder.parent.name == DATASET
    assert model.folder.name == f"{OUR_STUDENT}__{PLANS}__{CONFIGURATION}"
    student = finished.student(2)
    assert model.checkpoint(0).stat().st_ino == student.checkpoint(0).stat().st_ino
    assert model.validation_summary(0).read_text() == student.validation_summary(0).read_text()
    assert model.validation_summary(0).stat().st_ino != student.validation_summary(0).stat().st_ino  # nnU-Net writes it in place
    plans = json.loads((model.folder / "plans.json").read_text())
    assert plans == json.loads((student.folder / "plans.json").read_text()) | {"dataset_name": DATASET}
    assert json.loads((model.folder / "dataset.json").read_text()) == finished.setup.dataset_json
    assert (model.folder / "dataset_fingerprint.json").is_file()
    assert open_tiny_run_again(finished).manifest.published
    marker = json.loads((model.fold_folder(0) / "nnssl_published.json").read_text())
    assert marker["student"] == f"{student.dataset}/{student.name}/fold_0"
    assert results_root() / marker["workspace"] == finished.workspace
    assert marker["teacher_fingerprint"] == finished.manifest.teacher_fingerprint


def test_fingerprint_of_the_labelled_dataset_is_its_own(finished: Any) -> None:
    """nnU-Net's extractor opens it for writing where it stands."""
    own = finished.setup.preprocessed_folder / "dataset_fingerprint.json"
    published = publish(finished).folder / own.name
    before = published.read_bytes()
    assert before == own.read_bytes()
    with own.open("w") as file:
        file.write("{}")
    assert published.read_bytes() == before
    publish(finished)
    assert published.read_bytes() == b"{}"


def test_validation_of_a_new_training_does_not_reach_what_is_published(finished: Any) -> None:
    """nnU-Net writes label maps over those that are there, which goes through a link."""
    label = finished.student(2).fold_folder(0) / "validation" / "lab_0.nii.gz"
    label.write_bytes(b"old")
    published = publish(finished).fold_folder(0) / "validation" / "lab_0.nii.gz"
    label.write_bytes(b"new")
    assert published.read_bytes() == b"old"
    publish(finished)
    assert published.read_bytes() == b"new"


def test_room_for_what_is_copied(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("nnunet_ssl.pseudolabel.publish.require_free", lambda folder, size, what: asked.append(size))
    label = finished.student(2).fold_folder(0) / "validation" / "lab_0.nii.gz"
    for size in (0, 100_000):
        label.write_bytes(bytes(size))
        publish(finished)
    assert asked[1] - asked[0] == 100_000


def open_tiny_run_again(run: Any) -> Any:
    from nnunet_ssl.pseudolabel.run_spec import RunSpec
    from nnunet_ssl.pseudolabel.start_run import open_run

    return open_run(RunSpec(setup=run.setup, fold=run.fold, teacher_trainer=run.manifest.teacher_trainer))


def test_stock_predictor_takes_it(finished: Any, staged_images: list[list[str]], tmp_path: Path) -> None:
    model = publish(finished)
    for name in ("out", "same"):
        (tmp_path / name).mkdir()
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, use_mirroring=False)
    predictor.initialize_from_trained_model_folder(str(model.folder), (0,), "checkpoint_final.pth")
    predictor.predict_from_files_sequential(staged_images, str(tmp_path / "out"))
    written, image = sitk.ReadImage(str(tmp_path / "out" / "pool_0.nii.gz")), sitk.ReadImage(staged_images[0][0])
    assert (written.GetSize(), written.GetOrigin(), written.GetDirection()) == (image.GetSize(), image.GetOrigin(), image.GetDirection())
    student = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, use_mirroring=False)
    student.initialize_from_trained_model_folder(str(finished.student(2).folder), (0,), "checkpoint_final.pth")
    student.predict_from_files_sequential(staged_images, str(tmp_path / "same"))
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "same" / "pool_0.nii.gz")))
    assert (sitk.GetArrayFromImage(written) == expected).all()


@pytest.fixture
def staged_images(taught_project: Project) -> list[list[str]]:
    return [[str(taught_project.unlabelled / "pool_0_0000.nii.gz")]]


def test_several_folds_are_one_model(finished: Any, taught_project: Project) -> None:
    publish(finished)
    other = open_tiny_run(taught_project, 1, settings={"agreement.weight": 0.0, "curriculum.order": "all-at-once"})
    write_evidence(teacher_store(other))
    grow_stage(other)
    write_student(other, 1)
    model = publish(other)
    assert model.folder == published_model(finished).folder
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model.folder), (0, 1), "checkpoint_final.pth")
    assert len(predictor.list_of_parameters) == 2


def test_student_that_is_not_trained(taught_project: Project) -> None:
    run = open_tiny_run(taught_project)
    write_evidence(teacher_store(run))
    with pytest.raises(SetupError, match=r"the last stage is not written \(0 stages are\)"):
        publish(run)
    grow_stage(run)
    write_student(run, 1)
    with pytest.raises(SetupError, match=r"the last stage is not written \(1 stages are\)"):
        publish(run)
    grow_stage(run)
    with pytest.raises(SetupError, match=r"student of the last stage \(2\) is not trained"):
        publish(run)


def test_model_of_the_users_own_is_not_overwritten(finished: Any) -> None:
    folder = write_teacher(OUR_STUDENT, dataset="Dataset601_Tiny_f0s1", seed=3)  # any model of that trainer
    place = published_model(finished).fold_folder(0)
    shutil.copytree(folder, place)
    before = (place / "checkpoint_final.pth").read_bytes()
    with pytest.raises(StateError, match=r"fold_0 holds a model that nnunet-ssl did not publish; move it away first"):
        publish(finished)
    assert (place / "checkpoint_final.pth").read_bytes() == before
    assert not finished.manifest.published


def test_publishing_again_takes_the_new_student(finished: Any) -> None:
    model = publish(finished)
    first = model.checkpoint(0).read_bytes()
    shutil.rmtree(finished.student(2).folder)
    write_student(finished, 2, seed=9)
    publish(finished)
    assert model.checkpoint(0).read_bytes() == finished.student(2).checkpoint(0).read_bytes() != first


@pytest.fixture
def rival(taught_project: Project) -> Any:
    """A run whose teacher has another trainer, and whose only student is there; its trainer is that of `finished`."""
    settings = {"agreement.weight": 0.0, "curriculum.order": "all-at-once"}
    write_teacher("nnUNetTrainer", seed=4)
    run = open_tiny_run(taught_project, teacher_trainer="nnUNetTrainer", student_trainer=OUR_STUDENT, settings=settings)
    write_evidence(teacher_store(run))
    grow_stage(run)
    write_student(run, 1, seed=5)
    return run


def test_student_of_another_run_is_not_replaced(finished: Any, rival: Any) -> None:
    model = publish(finished)
    assert published_model(rival) == model
    before = mtimes(model.folder)
    with pytest.raises(StateError) as raised:
        publish(rival)
    message = str(raised.value)
    assert message.startswith(f"{model.fold_folder(0)} holds the published student of the run in {finished.workspace}; ")
    assert f"to publish that of the run in {rival.workspace} in its place, remove or move that fold" in message
    assert mtimes(model.folder) == before
    assert (is_published(finished), is_published(rival)) == (True, False)
    # what the message says works
    model.fold_folder(0).rename(model.folder / "kept")
    publish(rival)
    assert model.checkpoint(0).samefile(rival.student(1).checkpoint(0))
    assert (is_published(finished), is_published(rival)) == (False, True)
    with pytest.raises(StateError, match="holds the published student of the run in"):
        publish(finished)


def test_controls_replace_each_other(finished: Any, rival: Any) -> None:
    """Two teachers' controls have plans of one name; what is wanted of each is its comparison."""
    finished.manifest.control = "supervised"
    finished.manifest.save(finished.workspace)
    publish(finished)
    assert publish(rival).checkpoint(0).samefile(rival.student(1).checkpoint(0))


def test_what_is_published_stays_so_without_the_stage(finished: Any) -> None:
    model = publish(finished)
    shutil.rmtree(finished.student(2).folder.parent)
    assert is_published(finished)
    shutil.rmtree(model.fold_folder(0))
    assert not is_published(finished)


def test_student_of_a_run_that_is_gone_is_replaced(finished: Any, rival: Any) -> None:
    publish(finished)
    (finished.workspace / "manifest.json").unlink()
    assert publish(rival).checkpoint(0).samefile(rival.student(1).checkpoint(0))


def test_run_that_was_started_over_takes_its_own_place(finished: Any, taught_project: Project) -> None:
    publish(finished)
    (finished.workspace / "manifest.json").unlink()
    again = open_tiny_run(taught_project, settings={"agreement.weight": 0.0, "curriculum.order": "all-at-once"})
    grow_stage(again)
    write_student(again, 1, seed=8)
    assert publish(again).checkpoint(0).samefile(again.student(1).checkpoint(0))


def test_taken_place_is_said_where_a_run_begins(finished: Any, taught_project: Project, caplog: pytest.LogCaptureFixture) -> None:
    model = publish(finished)
    write_teacher("nnUNetTrainer", seed=4)
    with caplog.at_level(logging.WARNING, "nnunet_ssl"):
        for _ in range(2):
            open_tiny_run(taught_project, teacher_trainer="nnUNetTrainer", student_trainer=OUR_STUDENT)
        open_tiny_run(taught_project)
    (said,) = [message for message in caplog.messages if "published student" in message]
    assert said.startswith(f"{model.fold_folder(0)} holds the published student of the run in {finished.workspace}; ")


@pytest.mark.parametrize("is_killed", [False, True])
def test_publication_that_was_cut_off_at_its_first_file(finished: Any, monkeypatch: pytest.MonkeyPatch, is_killed: bool) -> None:
    """Of a process that was killed the temporary file stays."""
    replace, fold = os.replace, published_model(finished).fold_folder(0)

    def cut_off(source: Path, target: Path) -> None:
        if is_killed:
            shutil.copyfile(source, fold / f"{TEMPORARY_PREFIX}elsewhere")
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", cut_off)
    with pytest.raises(KeyboardInterrupt):
        publish(finished)
    assert len(list(fold.iterdir())) == is_killed
    monkeypatch.setattr(os, "replace", replace)
    assert publish(finished).checkpoint(0).is_file()
    assert not list(fold.glob(f"{TEMPORARY_PREFIX}*"))


def test_publication_that_was_cut_off_is_finished(finished: Any) -> None:
    model = publish(finished)
    model.checkpoint(0).unlink()
    (model.folder / "plans.json").unlink()
    publish(finished)
    assert model.checkpoint(0).is_file()
    assert (model.folder / "plans.json").is_file()


def test_what_is_published_stays_where_there_are_no_hard_links(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the student is trained anew its checkpoint has another name."""

    def no_link(*_: Any) -> None:
        raise OSError(errno.EXDEV, "no hard links here")

    monkeypatch.setattr(os, "link", no_link)
    published, student = publish(finished), finished.student(2).checkpoint(0)
    content = student.read_bytes()
    assert is_published(finished)
    set_aside(student.with_name("checkpoint_latest.pth"))
    assert not student.exists()
    assert published.checkpoint(0).is_file()
    assert published.checkpoint(0).read_bytes() == content
