"""Every way in which a fold's validation cases could reach its training: each is refused by one line that says where and what to do."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_setup import (
    CONFIGURATION,
    DATASET,
    LABELLED,
    OUR_STUDENT,
    OUR_TEACHER,
    PLANS,
    Project,
    grow_stage,
    mtimes,
    open_tiny_run,
    pretend_training,
    teacher_store,
    write_evidence,
    write_student,
)

from nnunet_ssl.cli.run import main
from nnunet_ssl.errors import StateError
from nnunet_ssl.pseudolabel.publish import is_published, publish, published_model

CALL = ["-d", "137", "-c", CONFIGURATION, "-p", PLANS, "-device", "cpu", "--num-samples", "2", "-np", "1"]


def teacher_fold(project: Project, fold: int) -> Path:
    return project.results / DATASET / f"{OUR_TEACHER}__{PLANS}__{CONFIGURATION}" / f"fold_{fold}"


def new_splits(project: Project) -> None:
    """Fold 0 holds out lab_1 from now on, on which its teacher has trained."""
    splits = [{"train": [c for c in LABELLED if c != held], "val": [held]} for held in (LABELLED[1], *LABELLED[1:5])]
    (project.preprocessed / DATASET / "splits_final.json").write_text(json.dumps(splits))


def summary_of(cases: list[str]) -> dict[str, Any]:
    return {"foreground_mean": {"Dice": 0.5}, "metric_per_case": [{"reference_file": f"/truth/{case}.nii.gz"} for case in cases]}


def validated_on(folder: Path, cases: list[str]) -> None:
    """What nnU-Net's final validation leaves."""
    (folder / "validation").mkdir(exist_ok=True)
    (folder / "validation" / "summary.json").write_text(json.dumps(summary_of(cases)))


@pytest.fixture
def two_stages(taught_project: Project) -> tuple[Project, Any]:
    """A run of fold 0 whose first stage is written and whose first student is there."""
    run = open_tiny_run(taught_project, settings={"agreement.weight": 0.0})
    write_evidence(teacher_store(run))
    grow_stage(run)
    write_student(run, 1)
    return taught_project, run


# ---- the teacher


def test_teacher_of_another_fold_under_this_ones_name(taught_project: Project, capsys: Any) -> None:
    shutil.copytree(teacher_fold(taught_project, 0), teacher_fold(taught_project, 2))
    validated_on(teacher_fold(taught_project, 2), ["lab_2"])
    before = mtimes(taught_project.raw, taught_project.preprocessed, taught_project.results)
    assert main([*CALL, "-f", "2"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "fold_2/checkpoint_final.pth was trained on fold 0, not on fold 2, and may have seen cases that fold 2 holds out" in line
    assert mtimes(taught_project.raw, taught_project.preprocessed, taught_project.results) == before


def test_cross_fitted_teacher_of_another_fold(taught_project: Project) -> None:
    """Its held-out cases decide about confidence, so they must not have been seen either."""
    shutil.copytree(teacher_fold(taught_project, 0), teacher_fold(taught_project, 2))
    with pytest.raises(StateError, match="trained on fold 0, not on fold 2"):
        open_tiny_run(taught_project, "all", teacher_folds=[0, 1, 2])


def test_splits_that_have_changed_since_the_teacher_was_trained(taught_project: Project) -> None:
    validated_on(teacher_fold(taught_project, 0), ["lab_0"])
    new_splits(taught_project)
    with pytest.raises(StateError, match=r"fold 0 of the splits holds out case 'lab_1', on which .* was not validated"):
        open_tiny_run(taught_project, 0)
    assert not (teacher_fold(taught_project, 0) / "nnssl").exists()
    validated_on(teacher_fold(taught_project, 0), ["lab_1"])
    assert open_tiny_run(taught_project, 0).fold == 0


def test_workspace_copied_from_another_fold(two_stages: tuple[Project, Any]) -> None:
    project, run = two_stages
    shutil.copytree(run.workspace, teacher_fold(project, 1) / "nnssl")
    with pytest.raises(StateError, match=r"fold_1/nnssl/manifest\.json is of the fold '0', not of '1'; restore it or remove"):
        open_tiny_run(project, 1, teacher_folds=[1])


# ---- between stages


def test_splits_that_have_changed_between_two_stages(two_stages: tuple[Project, Any]) -> None:
    project, run = two_stages
    new_splits(project)
    with pytest.raises(StateError, match=r"holds out lab_1, in Dataset601_Tiny_f0s1 it was lab_0: restore splits_final\.json"):
        grow_stage(run)
    assert len(run.manifest.stages) == 1
    assert not (project.raw / "Dataset602_Tiny_f0s2").exists()


def test_student_of_another_fold_does_not_label(two_stages: tuple[Project, Any]) -> None:
    _, run = two_stages
    path = run.student(1).checkpoint(0)
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["init_args"]["fold"] = 3
    torch.save(checkpoint, path)
    run = replace(run, method=run.method.with_settings({"agreement.weight": 0.5}))
    with pytest.raises(StateError, match=r"Dataset601_Tiny_f0s1/.*checkpoint_final\.pth was trained on fold 3, not on fold 0"):
        grow_stage(run)


# ---- the student


def student_trainer(fold: int) -> Any:
    from nnunetv2.run.run_training import get_trainer_from_args

    return get_trainer_from_args("Dataset601_Tiny_f0s1", CONFIGURATION, fold, OUR_STUDENT, PLANS, device=torch.device("cpu"))


def test_student_does_not_start_from_another_folds_weights(two_stages: tuple[Project, Any]) -> None:
    project, _ = two_stages
    sidecar = project.preprocessed / "Dataset601_Tiny_f0s1" / "nnssl.json"
    content = json.loads(sidecar.read_text())
    content["init_checkpoint"] = (teacher_fold(project, 1) / "checkpoint_final.pth").relative_to(project.results).as_posix()
    sidecar.write_text(json.dumps(content))
    with pytest.raises(StateError, match=r"fold_1/checkpoint_final\.pth was trained on fold 1, not on fold 0"):
        student_trainer(0).initialize()


def test_student_of_a_stage_whose_splits_were_edited(two_stages: tuple[Project, Any]) -> None:
    path = two_stages[0].preprocessed / "Dataset601_Tiny_f0s1" / "splits_final.json"
    splits = json.loads(path.read_text())
    splits[0]["train"].append("lab_0")
    path.write_text(json.dumps(splits))
    with pytest.raises(StateError, match=r"validation case 'lab_0' is among the training cases in Dataset601_Tiny_f0s1/splits_final\.json"):
        student_trainer(0)


@pytest.mark.parametrize("content", ["{", "[3]", '[{"val": []}]'])
def test_student_of_a_stage_whose_splits_are_damaged(two_stages: tuple[Project, Any], content: str) -> None:
    path = two_stages[0].preprocessed / "Dataset601_Tiny_f0s1" / "splits_final.json"
    path.write_text(content)
    with pytest.raises(StateError, match=r"Dataset601_Tiny_f0s1/splits_final\.json is damaged .*write the stage again"):
        student_trainer(0)


def test_pool_enters_the_train_list_of_its_own_fold_alone(two_stages: tuple[Project, Any]) -> None:
    """So that a stock trainer on another fold of a stage dataset sees nothing that a model of fold 0 has made."""
    project, _ = two_stages
    splits = json.loads((project.preprocessed / "Dataset601_Tiny_f0s1" / "splits_final.json").read_text())
    own = json.loads((project.preprocessed / DATASET / "splits_final.json").read_text())
    assert splits[1:] == own[1:]
    assert splits[0]["val"] == own[0]["val"]
    assert set(splits[0]["train"]) > set(own[0]["train"])


# ---- what is published


def test_copy_of_another_folds_student_is_not_the_published_one(taught_project: Project) -> None:
    runs = []
    for fold in (0, 1):
        run = open_tiny_run(taught_project, fold, settings={"agreement.weight": 0.0, "curriculum.order": "all-at-once"})
        write_evidence(teacher_store(run))
        grow_stage(run)
        pretend_training(run.student(1), fold, seed=fold)
        publish(run)
        runs.append(run)
    model = published_model(runs[0])
    assert [is_published(run) for run in runs] == [True, True]
    shutil.rmtree(model.fold_folder(1))
    shutil.copytree(model.fold_folder(0), model.fold_folder(1))
    assert [is_published(run) for run in runs] == [True, False]
    publish(runs[1])
    assert is_published(runs[1])
    assert model.checkpoint(1).read_bytes() == runs[1].student(1).checkpoint(1).read_bytes()
