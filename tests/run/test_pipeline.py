"""The steps of a run, with trainings that take no time: order, what is skipped, and what a second call changes."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
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

from nnunet_ssl.cli import pseudolabel
from nnunet_ssl.cli.arguments import method_assignments
from nnunet_ssl.data.manifest import Manifest
from nnunet_ssl.data.pool_index import load_pool
from nnunet_ssl.errors import ConfigError, SetupError, StateError
from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.nnunet_api.earlier_training import set_aside
from nnunet_ssl.pseudolabel.publish import published_model
from nnunet_ssl.pseudolabel.rewrite_stage import rewrite_stage
from nnunet_ssl.run import pipeline as module
from nnunet_ssl.run.pipeline import execute, pipeline, student_epochs, teacher_epochs
from nnunet_ssl.run.run_request import RunRequest

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
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int | None, str]]:
    """Every training that was asked for: dataset, epochs, name of the log."""
    asked: list[tuple[str, int | None, str]] = []

    def pretend(model: ModelLocation, fold: int | str, *, device: str, log: Path, epochs: int | None, npz: bool = False) -> None:
        asked.append((model.dataset, epochs, log.name))
        pretend_training(model, fold, seed=len(asked))

    monkeypatch.setattr(module, "train", pretend)
    return asked


def request(project: Project, **changes: Any) -> RunRequest:
    setup = project.setup()
    settings = {"evidence.num_samples": 2, **changes.pop("settings", {})}
    return RunRequest(
        **{
            "setup": setup,
            "fold": 0,
            "unlabelled": (project.unlabelled,),
            "teacher_trainer": OUR_TEACHER,
            "teacher_folds": None,
            "student_trainer": None,
            "method": setup.method.with_settings(settings),
            "device": "cpu",
            "skip_bad": False,
            "num_processes": 1,
            "first_id": None,
            **changes,
        }
    )


def everything(project: Project) -> dict[str, int]:
    return mtimes(project.raw, project.preprocessed, project.results)


def done(asked: RunRequest) -> list[bool]:
    return [step.is_done() for step in pipeline(asked)]


def test_whole_run_and_again(fresh_project: Project, trainings: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    asked = request(fresh_project)
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
    again = request(fresh_project)
    assert done(again) == [True] * 7
    with caplog.at_level(logging.INFO, "nnunet_ssl"):
        execute(pipeline(again))
    assert [m for m in caplog.messages if "done before" in m] == [f"[{i}/7] {name}: done before" for i, name in enumerate(STEPS, 1)]
    assert everything(fresh_project) == before
    assert len(trainings) == 3


def test_student_that_is_trained_anew_is_published(fresh_project: Project, trainings: list[Any]) -> None:
    """As after a stage was written again and the fold of its student removed."""
    asked = request(fresh_project)
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
    asked = request(fresh_project)
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
    asked = request(fresh_project, fold=fold)
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
    asked = request(project, teacher_trainer="nnUNetTrainer", unlabelled=())
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
    asked = request(fresh_project)
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
    asked = request(fresh_project)
    execute(pipeline(asked))
    model = published_model(asked.open()).checkpoint(0)
    content = model.read_bytes()
    model.unlink()
    model.write_bytes(content)
    assert done(asked) == [True] * 7


def test_run_continues_after_every_step(fresh_project: Project, trainings: list[Any]) -> None:
    """As after a kill behind each step: a new process does the rest and nothing twice."""
    for number in range(len(STEPS)):
        asked = request(fresh_project)
        assert done(asked) == [True] * number + [False] * (len(STEPS) - number)
        execute(pipeline(asked)[: number + 1])
    assert done(request(fresh_project)) == [True] * 7
    assert len(trainings) == 3


def test_commands_are_those_a_user_would_type(project: Project) -> None:
    commands = [step.command for step in pipeline(request(project))]
    grow = f"nnssl_pseudolabel -d 137 -c 3d_fullres -f 0 -p {PLANS} -tr {OUR_TEACHER} --set evidence.num_samples=2 -device cpu"
    assert commands[0] == f"nnssl_prepare -d 137 -c 3d_fullres -p {PLANS} -u {project.unlabelled}"
    assert commands[1] == f"nnUNetv2_train 137 3d_fullres 0 -tr {OUR_TEACHER} -p {PLANS} -device cpu"
    assert commands[2] == commands[4] == commands[6] == grow
    assert commands[3] == f"nnUNetv2_train STAGE_ID 3d_fullres 0 -tr {OUR_STUDENT} -p {PLANS} -device cpu"
    on_gpu = [step.command for step in pipeline(request(project, device="cuda", skip_bad=True, dask="local:2"))]
    assert not any("-device" in command for command in on_gpu)
    assert on_gpu[0] == f"{commands[0]} --skip-bad --dask local:2"
    assert on_gpu[2] == grow.removesuffix(" -device cpu") + " --dask local:2"


def test_commands_carry_what_no_run_keeps_yet(project: Project) -> None:
    """Typed one by one they make the run that was asked for, which knows its settings from its first stage on alone."""
    settings = {"curriculum.fractions": (0.4, 0.7, 1.0), "student.tau": 0.6, "curriculum.order": "random", "student.ema_decay": None}
    asked = request(project, fold="all", teacher_folds=(0, 1), student_trainer="MeanTeacherTrainer", first_id=801, settings=settings)
    arguments = pseudolabel.parser().parse_args(shlex.split(pipeline(asked)[-1].command)[1:])
    assert asked.setup.method.with_settings(method_assignments(arguments)) == asked.method
    assert (arguments.student_tr, arguments.first_id, arguments.teacher_folds) == ("MeanTeacherTrainer", 801, [0, 1])


def test_commands_of_a_run_that_has_begun_are_short(taught_project: Project) -> None:
    open_tiny_run(taught_project, settings={"student.tau": 0.6, "evidence.num_samples": 2})
    asked = request(taught_project, settings={"student.tau": 0.6})
    assert pipeline(asked)[-1].command == f"nnssl_pseudolabel -d 137 -c 3d_fullres -f 0 -p {PLANS} -tr {OUR_TEACHER} -device cpu"


def test_stage_that_is_gone_is_named_before_its_training(taught_project: Project, trainings: list[Any]) -> None:
    run = open_tiny_run(taught_project, settings={"evidence.num_samples": 2})
    write_evidence(teacher_store(run))
    name = grow_stage(run).dataset
    shutil.rmtree(taught_project.preprocessed / name)
    (student,) = [step for step in pipeline(request(taught_project)) if step.key == "student-1"]
    with pytest.raises(StateError, match=rf"{name} has no plans any more; write the stage again with nnssl_pseudolabel --stage"):
        student.work()
    assert trainings == []


def test_commands_can_be_typed_where_names_have_spaces(project: Project, tmp_path: Path) -> None:
    folders = (tmp_path / "new scans", tmp_path / "it's old")
    asked = request(project, unlabelled=folders, groups="site (A|B)", accept=tmp_path / "corrected by hand")
    lines = [shlex.split(step.command) for step in pipeline(asked)]
    assert lines[0][-2:] == list(map(str, folders))
    assert ["--groups", "site (A|B)"] in [line[-2:] for line in lines]
    assert ["--accept", str(tmp_path / "corrected by hand")] in [line[-2:] for line in lines]


def test_prepared_pool_needs_no_folder(project: Project) -> None:
    assert [step.name for step in pipeline(request(project, unlabelled=()))] == STEPS[1:]


def test_final_mode_trains_every_teacher_it_averages(project: Project, trainings: list[Any]) -> None:
    asked = request(project, fold="all", teacher_folds=(0, 1), unlabelled=())
    steps = pipeline(asked)
    assert [step.name for step in steps][:3] == ["train the teacher (fold 0)", "train the teacher (fold 1)", "write stage 1"]
    execute(steps[:3])
    assert [t[2] for t in trainings] == ["teacher_fold_0.txt", "teacher_fold_1.txt"]
    assert asked.open().manifest.stages[0].dataset == "Dataset601_Tiny_falls1"
    later = request(project, fold="all", unlabelled=())  # the run remembers its teachers
    assert [step.is_done() for step in pipeline(later)[:3]] == [True, True, True]


def names(asked: RunRequest) -> list[str]:
    return [step.name for step in pipeline(asked)]


def test_final_mode_trains_the_teachers_of_all_folds(project: Project) -> None:
    asked = request(project, fold="all")
    teachers = [f"train the teacher (fold {fold})" for fold in range(5)]
    assert names(asked) == ["prepare the pool", *teachers, *STEPS[2:]]
    assert [step.is_before_stages for step in pipeline(asked)] == [True] * 6 + [False] * 5
    commands = [step.command for step in pipeline(asked)]
    assert commands[1:6] == [f"nnUNetv2_train 137 3d_fullres {fold} -tr {OUR_TEACHER} -p {PLANS} -device cpu" for fold in range(5)]
    grow = f"nnssl_pseudolabel -d 137 -c 3d_fullres -f all -p {PLANS} -tr {OUR_TEACHER} --set evidence.num_samples=2"
    assert commands[6] == f"{grow} -device cpu"
    alone = request(project, fold="all", teacher_folds=("all",))
    assert names(alone) == ["prepare the pool", "train the teacher (fold all)", *STEPS[2:]]


def test_final_mode_takes_a_teacher_of_all_labels_that_is_there(project: Project) -> None:
    asked = request(project, fold="all", unlabelled=())
    pretend_training(asked.teacher, "all")
    assert asked.folds == ("all",)
    assert done(asked)[0] is True
    # folds that are there, too, are worth more: they leave cases that they have not seen
    for fold in range(5):
        assert request(project, fold="all").folds == ("all",)
        pretend_training(asked.teacher, fold)
    assert request(project, fold="all").folds == (0, 1, 2, 3, 4)
    assert request(project, fold="all", teacher_folds=("all",)).folds == ("all",)


def test_final_mode_of_too_few_cases_for_splits(project: Project) -> None:
    (project.preprocessed / DATASET / "splits_final.json").unlink()
    assert request(project, fold="all").folds == (0, 1, 2, 3, 4)  # of the split that nnU-Net would make of six cases
    for case in ("lab_4", "lab_5"):
        for part in (f"imagesTr/{case}_0000.nii.gz", f"labelsTr/{case}.nii.gz"):
            (project.raw / DATASET / part).unlink()
    dataset_json = project.preprocessed / DATASET / "dataset.json"
    dataset_json.write_text(json.dumps({**json.loads(dataset_json.read_text()), "numTraining": 4}))
    assert names(request(project, fold="all"))[1:3] == ["train the teacher (fold all)", "write stage 1"]


def test_run_that_has_begun_keeps_its_teacher(project: Project) -> None:
    """Folds that are trained later do not change it."""
    asked = request(project, fold="all", unlabelled=())
    pretend_training(asked.teacher, "all")
    asked.open()
    for fold in range(5):
        pretend_training(asked.teacher, fold)
    assert request(project, fold="all").folds == ("all",)


def test_whole_run_in_final_mode(project: Project, trainings: list[Any]) -> None:
    asked = request(project, fold="all", unlabelled=())
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
    assert all(done(request(project, fold="all", unlabelled=())))
    execute(pipeline(request(project, fold="all", unlabelled=())))
    assert everything(project) == before


def test_another_folds_teacher_is_refused_before_it_is_trained(project: Project, trainings: list[Any]) -> None:
    with pytest.raises(ConfigError, match="fold 0 may only use the teacher of fold 0"):
        execute(pipeline(request(project, teacher_folds=(1,), unlabelled=())))
    assert trainings == []


def test_adaptive_schedule_that_ends_early(project: Project, trainings: list[Any]) -> None:
    """Four stages are planned; the labels have settled after the first, so the second is the last and the others count as done."""
    settings = {"curriculum.schedule": "adaptive", "curriculum.fractions": [0.2, 0.4, 0.6, 1.0], "student.length.num_epochs": 8}
    asked = request(project, unlabelled=(), settings=settings)
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
    assert all(done(request(project, unlabelled=(), settings=settings)))
    execute(pipeline(request(project, unlabelled=(), settings=settings)))
    assert everything(project) == before
    assert len(trainings) == 3


def test_trained_stock_teacher_is_taken_as_it_is(project: Project, trainings: list[Any]) -> None:
    asked = request(project, teacher_trainer="nnUNetTrainer", unlabelled=())
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


def test_probabilities_of_the_last_student(fresh_project: Project, trainings: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """They are asked for when everything is done: the last student alone is validated again, and published again."""
    execute(pipeline(request(fresh_project)))
    asked = request(fresh_project, npz=True)
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
    assert done(asked) == done(request(fresh_project)) == [True] * 7
    asked.open().student(2).validation_summary(0).write_text("{")  # as nnU-Net leaves it that is killed meanwhile
    assert done(asked)[5] is False


@pytest.mark.parametrize("trainer", [OUR_TEACHER, "PatientTeacher"])
def test_our_teacher_is_done_when_it_is_validated(project: Project, trainer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from nnunet_ssl.training.teacher import TransASPPTeacherTrainer\nclass PatientTeacher(TransASPPTeacherTrainer): pass\n"
    (tmp_path / "patient_teacher.py").write_text(source)
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    asked = request(project, unlabelled=(), teacher_trainer=trainer)
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
    asked = request(project, fold=fold, teacher_folds=teacher_folds, unlabelled=())
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
    asked = request(project, unlabelled=())
    execute(pipeline(asked)[:1])
    folder = train_anew(asked.teacher, 0)
    with pytest.raises(SetupError, match=r"the teacher of fold 0 is not trained .* --c$"):
        asked.open()
    shutil.rmtree(folder / "validation")  # which the pretended training makes
    execute(pipeline(asked)[:1])
    assert len(trainings) == 2


def test_run_without_teacher_or_pool(fresh_project: Project) -> None:
    asked = request(fresh_project, unlabelled=())
    with pytest.raises(SetupError, match="no pool is prepared"):
        pipeline(asked)[1].work()
    fresh_project.prepare_pool()
    with pytest.raises(SetupError, match="teacher of fold 0 is not trained"):
        pipeline(asked)[1].work()
    assert not (fresh_project.results / DATASET).exists()


def test_student_before_its_stage(taught_project: Project) -> None:
    with pytest.raises(SetupError, match="stage 2 is not written yet; run nnssl_pseudolabel first"):
        next(s for s in pipeline(request(taught_project)) if s.name == "train student 2").work()


def test_image_that_comes_while_a_run_is_under_way(fresh_project: Project, trainings: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    """The same command takes it into the pool and goes on with the cases that the run began with."""
    asked = request(fresh_project)
    execute(pipeline(asked)[:3])
    write_image(phantom("pool_6")[0], fresh_project.unlabelled / "pool_6_0000.nii.gz")
    again = request(fresh_project)
    assert pipeline(again)[0].is_done() is False
    with caplog.at_level(logging.INFO, "nnunet_ssl"):
        execute(pipeline(again)[:5])
    assert load_pool(again.setup).case_ids == [*POOL, "pool_6"]
    assert sorted(again.open().manifest.stages[1].cases) == POOL
    assert sum("1 pool cases came later and are no part of this run" in message for message in caplog.messages) == 1


def test_image_that_goes_while_a_run_is_under_way(fresh_project: Project) -> None:
    asked = request(fresh_project)
    execute(pipeline(asked)[:3])
    (fresh_project.unlabelled / "pool_0_0000.nii.gz").rename(fresh_project.unlabelled / "new_0000.nii.gz")
    again = request(fresh_project)
    assert pipeline(again)[0].is_done() is False
    with pytest.raises(StateError, match="has the pool case 'pool_0', which the prepared pool lacks"):
        execute(pipeline(again))


def test_evidence_is_swept_by_the_networks(taught_project: Project, trainings: list[Any]) -> None:
    """Teacher and student leave their own evidence."""
    asked = request(taught_project, unlabelled=(), settings={"evidence.num_samples": 8})
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
