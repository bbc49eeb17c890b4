"""The steps of a run, with trainings that take no time: order, what is skipped, and what a second call changes."""

from __future__ import annotations

import json
import logging
import shutil
from typing import Any

import pytest
import torch
from run_requests import done, run_request, trainings
from tiny_setup import (
    DATASET,
    OUR_STUDENT,
    OUR_TEACHER,
    PLANS,
    POOL,
    Project,
    grow_stage,
    mtimes,
    open_tiny_run,
    phantom,
    pretend_training,
    teacher_store,
    write_evidence,
    write_image,
)

from nnunet_ssl.data.pool_index import load_pool
from nnunet_ssl.errors import ConfigError, SetupError, StateError
from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.pseudolabel.publish import published_model
from nnunet_ssl.run import pipeline as module
from nnunet_ssl.run.pipeline import execute, pipeline
from nnunet_ssl.run.run_request import RunRequest

__all__ = ["trainings"]
"""A fixture."""

STEPS = [
    "prepare the pool",
    "train the teacher (fold 0)",
    "write stage 1",
    "train student 1",
    "write stage 2",
    "train student 2",
    "publish the last student",
]


@pytest.fixture(autouse=True)
def _no_trainings(trainings: list[Any]) -> None:
    """None is real."""


def everything(project: Project) -> dict[str, int]:
    return mtimes(project.raw, project.preprocessed, project.results)


def test_whole_run_and_again(fresh_project: Project, trainings: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    asked = run_request(fresh_project)
    steps = pipeline(asked)
    assert [step.name for step in steps] == STEPS
    assert done(asked) == [False] * 7
    execute(steps)
    # one supervised and one distillation epoch; one epoch a stage, and distillation after the last
    stages = [("Dataset601_Tiny_f0s1", 1, "student_1.txt"), ("Dataset602_Tiny_f0s2", 2, "student_2.txt")]
    assert trainings == [(DATASET, 2, "teacher_fold_0.txt"), *stages]
    run = asked.open()
    assert [record.cases for record in run.manifest.stages][1] == run.manifest.stages[1].cases
    assert sorted(run.manifest.stages[1].cases) == POOL
    assert published_model(run).checkpoint(0).is_file()
    before = everything(fresh_project)
    again = run_request(fresh_project)
    assert done(again) == [True] * 7
    with caplog.at_level(logging.INFO, "nnunet_ssl"):
        execute(pipeline(again))
    assert [m for m in caplog.messages if "done before" in m] == [f"[{i}/7] {name}: done before" for i, name in enumerate(STEPS, 1)]
    assert everything(fresh_project) == before
    assert len(trainings) == 3


def test_run_continues_after_every_step(fresh_project: Project, trainings: list[Any]) -> None:
    """As after a kill behind each step: a new process does the rest and nothing twice."""
    for number in range(len(STEPS)):
        asked = run_request(fresh_project)
        assert done(asked) == [True] * number + [False] * (len(STEPS) - number)
        execute(pipeline(asked)[: number + 1])
    assert done(run_request(fresh_project)) == [True] * 7
    assert len(trainings) == 3


def test_stage_that_is_gone_is_named_before_its_training(taught_project: Project, trainings: list[Any]) -> None:
    run = open_tiny_run(taught_project, settings={"evidence.num_samples": 2})
    write_evidence(teacher_store(run))
    name = grow_stage(run).dataset
    shutil.rmtree(taught_project.preprocessed / name)
    (student,) = [step for step in pipeline(run_request(taught_project)) if step.key == "student-1"]
    with pytest.raises(StateError, match=rf"{name} has no plans any more; write the stage again with nnssl_pseudolabel --stage"):
        student.work()
    assert trainings == []


def test_prepared_pool_needs_no_folder(project: Project) -> None:
    assert [step.name for step in pipeline(run_request(project, unlabelled=()))] == STEPS[1:]


def test_final_mode_trains_every_teacher_it_averages(project: Project, trainings: list[Any]) -> None:
    asked = run_request(project, fold="all", teacher_folds=(0, 1), unlabelled=())
    steps = pipeline(asked)
    assert [step.name for step in steps][:3] == ["train the teacher (fold 0)", "train the teacher (fold 1)", "write stage 1"]
    execute(steps[:3])
    assert [t[2] for t in trainings] == ["teacher_fold_0.txt", "teacher_fold_1.txt"]
    assert asked.open().manifest.stages[0].dataset == "Dataset601_Tiny_falls1"
    later = run_request(project, fold="all", unlabelled=())  # the run remembers its teachers
    assert [step.is_done() for step in pipeline(later)[:3]] == [True, True, True]


def names(asked: RunRequest) -> list[str]:
    return [step.name for step in pipeline(asked)]


def test_final_mode_trains_the_teachers_of_all_folds(project: Project) -> None:
    asked = run_request(project, fold="all")
    teachers = [f"train the teacher (fold {fold})" for fold in range(5)]
    assert names(asked) == ["prepare the pool", *teachers, *STEPS[2:]]
    assert [step.is_before_stages for step in pipeline(asked)] == [True] * 6 + [False] * 5
    commands = [step.command for step in pipeline(asked)]
    assert commands[1:6] == [f"nnUNetv2_train 137 3d_fullres {fold} -tr {OUR_TEACHER} -p {PLANS} -device cpu" for fold in range(5)]
    grow = f"nnssl_pseudolabel -d 137 -c 3d_fullres -f all -p {PLANS} -tr {OUR_TEACHER} --set evidence.num_samples=2"
    assert commands[6] == f"{grow} -device cpu"
    alone = run_request(project, fold="all", teacher_folds=("all",))
    assert names(alone) == ["prepare the pool", "train the teacher (fold all)", *STEPS[2:]]


def test_final_mode_takes_a_teacher_of_all_labels_that_is_there(project: Project) -> None:
    asked = run_request(project, fold="all", unlabelled=())
    pretend_training(asked.teacher, "all")
    assert asked.folds == ("all",)
    assert done(asked)[0] is True
    # folds that are there, too, are worth more: they leave cases that they have not seen
    for fold in range(5):
        assert run_request(project, fold="all").folds == ("all",)
        pretend_training(asked.teacher, fold)
    assert run_request(project, fold="all").folds == (0, 1, 2, 3, 4)
    assert run_request(project, fold="all", teacher_folds=("all",)).folds == ("all",)


def test_final_mode_of_too_few_cases_for_splits(project: Project) -> None:
    (project.preprocessed / DATASET / "splits_final.json").unlink()
    assert run_request(project, fold="all").folds == (0, 1, 2, 3, 4)  # of the split that nnU-Net would make of six cases
    for case in ("lab_4", "lab_5"):
        for part in (f"imagesTr/{case}_0000.nii.gz", f"labelsTr/{case}.nii.gz"):
            (project.raw / DATASET / part).unlink()
    dataset_json = project.preprocessed / DATASET / "dataset.json"
    dataset_json.write_text(json.dumps({**json.loads(dataset_json.read_text()), "numTraining": 4}))
    assert names(run_request(project, fold="all"))[1:3] == ["train the teacher (fold all)", "write stage 1"]


def test_run_that_has_begun_keeps_its_teacher(project: Project) -> None:
    """Folds that are trained later do not change it."""
    asked = run_request(project, fold="all", unlabelled=())
    pretend_training(asked.teacher, "all")
    asked.open()
    for fold in range(5):
        pretend_training(asked.teacher, fold)
    assert run_request(project, fold="all").folds == ("all",)


def test_whole_run_in_final_mode(project: Project, trainings: list[Any]) -> None:
    asked = run_request(project, fold="all", unlabelled=())
    execute(pipeline(asked))
    assert [t[2] for t in trainings] == [*(f"teacher_fold_{fold}.txt" for fold in range(5)), "student_1.txt", "student_2.txt"]
    run = asked.open()
    assert run.manifest.teacher_folds == [0, 1, 2, 3, 4]
    assert sorted(folder.name for folder in (run.workspace / "evidence").iterdir()) == [
        *(f"held_out_f{fold}" for fold in range(5)),
        "student_s1",
        *(f"teacher_f{fold}" for fold in range(5)),
    ]
    for fold, store in run.held_out_stores().items():
        assert [f.stem for f in store.folder.iterdir()] == run.held_out_cases[fold]
    assert (run.workspace / "held_out.json").is_file()
    assert published_model(run).checkpoint("all").is_file()
    before = everything(project)
    assert all(done(run_request(project, fold="all", unlabelled=())))
    execute(pipeline(run_request(project, fold="all", unlabelled=())))
    assert everything(project) == before


def test_another_folds_teacher_is_refused_before_it_is_trained(project: Project, trainings: list[Any]) -> None:
    with pytest.raises(ConfigError, match="fold 0 may only use the teacher of fold 0"):
        execute(pipeline(run_request(project, teacher_folds=(1,), unlabelled=())))
    assert trainings == []


def test_adaptive_schedule_that_ends_early(project: Project, trainings: list[Any]) -> None:
    """Four stages are planned; the labels have settled after the first, so the second is the last and the others count as done."""
    settings = {"curriculum.schedule": "adaptive", "curriculum.fractions": [0.2, 0.4, 0.6, 1.0], "student.length.num_epochs": 8}
    asked = run_request(project, unlabelled=(), settings=settings)
    assert len(names(asked)) == 1 + 2 * 4 + 1
    execute(pipeline(asked)[:1])
    write_evidence(teacher_store(asked.open()))
    execute(pipeline(asked)[:3])
    write_evidence(asked.open().student_store(1))
    assert done(asked) == [True] * 3 + [False] * 7
    execute(pipeline(asked)[:4])
    assert done(asked) == [True] * 4 + [False] + [True] * 4 + [False]  # student 2 and the publication are left
    execute(pipeline(asked))
    # one epoch, then the seven that are left and one of distillation
    stages = [("Dataset601_Tiny_f0s1", 1, "student_1.txt"), ("Dataset602_Tiny_f0s2", 8, "student_2.txt")]
    assert trainings == [(DATASET, 2, "teacher_fold_0.txt"), *stages]
    run = asked.open()
    assert [record.is_last for record in run.manifest.stages] == [False, True]
    assert published_model(run).checkpoint(0).samefile(run.student(2).checkpoint(0))
    before = everything(project)
    assert all(done(run_request(project, unlabelled=(), settings=settings)))
    execute(pipeline(run_request(project, unlabelled=(), settings=settings)))
    assert everything(project) == before
    assert len(trainings) == 3


def test_probabilities_of_the_last_student(fresh_project: Project, trainings: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """They are asked for when everything is done: the last student alone is validated again, and published again."""
    execute(pipeline(run_request(fresh_project)))
    asked = run_request(fresh_project, npz=True)
    assert done(asked) == [True] * 5 + [False, True]
    assert pipeline(asked)[5].command.endswith(f"602 3d_fullres 0 -tr {OUR_STUDENT} -p {PLANS} --val --npz -device cpu")
    assert "--npz" not in "".join(step.command for step in pipeline(asked)[:5])
    validated: list[tuple[str, bool]] = []

    def validate(model: ModelLocation, fold: int, *, npz: bool, **_: Any) -> None:
        validated.append((model.dataset, npz))
        summary = model.validation_summary(fold)
        for name in ("lab_0.npz", "lab_0.pkl"):
            summary.with_name(name).touch()
        summary.write_text('{"foreground_mean": {"Dice": 0.5}, "metric_per_case": [{"reference_file": "/labels/lab_0.nii.gz"}]}')

    monkeypatch.setattr(module, "train", validate)
    execute(pipeline(asked))
    assert validated == [("Dataset602_Tiny_f0s2", True)]
    assert (published_model(asked.open()).validation_summary(0).parent / "lab_0.npz").is_file()
    assert done(asked) == done(run_request(fresh_project)) == [True] * 7
    asked.open().student(2).validation_summary(0).write_text("{")  # as nnU-Net leaves it that is killed meanwhile
    assert done(asked)[5] is False


def test_run_without_teacher_or_pool(fresh_project: Project) -> None:
    asked = run_request(fresh_project, unlabelled=())
    with pytest.raises(SetupError, match="no pool is prepared"):
        pipeline(asked)[1].work()
    fresh_project.prepare_pool()
    with pytest.raises(SetupError, match="teacher of fold 0 is not trained"):
        pipeline(asked)[1].work()
    assert not (fresh_project.results / DATASET).exists()


def test_student_before_its_stage(taught_project: Project) -> None:
    with pytest.raises(SetupError, match="stage 2 is not written yet; run nnssl_pseudolabel first"):
        next(s for s in pipeline(run_request(taught_project)) if s.name == "train student 2").work()


def test_image_that_comes_while_a_run_is_under_way(fresh_project: Project, trainings: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    """The same command takes it into the pool and goes on with the cases that the run began with."""
    asked = run_request(fresh_project)
    execute(pipeline(asked)[:3])
    write_image(phantom("pool_6")[0], fresh_project.unlabelled / "pool_6_0000.nii.gz")
    again = run_request(fresh_project)
    assert pipeline(again)[0].is_done() is False
    with caplog.at_level(logging.INFO, "nnunet_ssl"):
        execute(pipeline(again)[:5])
    assert load_pool(again.setup).case_ids == [*POOL, "pool_6"]
    assert sorted(again.open().manifest.stages[1].cases) == POOL
    assert sum("1 pool cases came later and are no part of this run" in message for message in caplog.messages) == 1


def test_image_that_goes_while_a_run_is_under_way(fresh_project: Project) -> None:
    asked = run_request(fresh_project)
    execute(pipeline(asked)[:3])
    (fresh_project.unlabelled / "pool_0_0000.nii.gz").rename(fresh_project.unlabelled / "new_0000.nii.gz")
    again = run_request(fresh_project)
    assert pipeline(again)[0].is_done() is False
    with pytest.raises(StateError, match="has the pool case 'pool_0', which the prepared pool lacks"):
        execute(pipeline(again))


def test_evidence_is_swept_by_the_networks(taught_project: Project, trainings: list[Any]) -> None:
    """Teacher and student leave their own evidence."""
    asked = run_request(taught_project, unlabelled=(), settings={"evidence.num_samples": 8})
    (asked.teacher.fold_folder(0) / "validation").mkdir()
    (asked.teacher.fold_folder(0) / "validation" / "summary.json").write_text("{}")
    torch.set_num_threads(1)
    execute(pipeline(asked)[:4])
    run = asked.open()
    assert run.manifest.stages[1].label_stage in (1, None)
    for store in (teacher_store(run), run.student_store(1)):
        assert all(store.has(case) for case in POOL)
        assert store.read("pool_0").num_samples == 8
    assert [t[0] for t in trainings] == ["Dataset601_Tiny_f0s1"]
