"""The benchmark's jobs: what every arm is given, how many steps it takes, and that nothing is made twice."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import benchmark
import pytest
from arms import ARMS, Arm, Lengths, overlay_of
from draw import Draw
from draw_jobs import jobs_of
from hippocampus import supervised_overlay
from job_queue import JobQueue
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.training.phased_trainer import PhasedTrainer
from nnunet_ssl.training.teacher import TransASPPTeacherTrainer

LENGTHS = Lengths(teacher_epochs=4, student_epochs=6, iterations_per_epoch=50, val_iterations_per_epoch=2)
SHARED = json.loads(Path(__file__).with_name("overlay.json").read_text())


def draw(folder: Path, *, labels: int = 8, teachers: str | None = None, network: str = "TransASPPUNet") -> Draw:
    overlay = Path(__file__).with_name("overlay.json")
    folders = {"data": folder / "data", "out": folder, "rows": folder / "rows", "overlay": overlay}
    flags = {"split": "development", "device": "cpu", "teachers": teachers, "network": network, "frozen": None}
    return Draw(argparse.Namespace(**folders, **flags), labels, 0)


def steps(method: MethodConfig) -> tuple[int, int]:
    """Optimiser steps of one supervised training and of all student stages."""
    student = method.student
    epochs = student.length.num_epochs + student.fine_tune_epochs
    length = method.teacher.length
    return length.num_epochs * length.iterations_per_epoch, epochs * student.length.iterations_per_epoch


@pytest.mark.parametrize("arm", ARMS.values(), ids=list(ARMS))
def test_every_overlay_is_valid_and_equally_long(arm: Arm) -> None:
    method = MethodConfig.from_dict(overlay_of(arm, SHARED, LENGTHS, folds=5)["nnssl"])
    supervised, student = steps(method)
    # five teachers of 200 steps and the student's 300
    assert supervised == (1300 if arm.kind == "supervised" else 200)
    assert (method.teacher.optimizer, method.teacher.distillation_epochs) == ("adamw", 0)
    if arm.kind == "run":
        assert student == 300
        assert (method.student.optimizer, method.student.distillation_epochs) == ("adamw", 0)


@pytest.mark.parametrize("arm", ["teacher", "supervised", "ceiling"])
def test_settings_of_students_do_not_reach_other_trainings(arm: str) -> None:
    assert list(overlay_of(ARMS[arm], SHARED, LENGTHS, folds=5)["nnssl"]) == ["teacher"]


def test_settings_of_an_arm_replace_the_shared_ones() -> None:
    assert MethodConfig.from_dict(overlay_of(ARMS["ours"], SHARED, LENGTHS, 5)["nnssl"]).curriculum.fractions == (0.5, 1.0)
    assert MethodConfig.from_dict(overlay_of(ARMS["naive"], SHARED, LENGTHS, 5)["nnssl"]).curriculum.fractions == (1.0,)
    assert "fractions" in SHARED["nnssl"]["curriculum"]  # the shared overlay is left as it is


def test_control_of_equal_stages_learns_from_labels_alone() -> None:
    overlays = (overlay_of(ARMS[name], SHARED, LENGTHS, 5) for name in ("supervised_continued", "ours"))
    control, ours = (MethodConfig.from_dict(overlay["nnssl"]) for overlay in overlays)
    assert control.curriculum == ours.curriculum
    assert control.student == replace(ours.student, labelled_share=1.0)


def test_supervised_variants_replace_settings_of_the_teacher_and_nothing_else() -> None:
    shared = overlay_of(ARMS["ours"], SHARED, LENGTHS, 5)
    overlay = supervised_overlay(shared, 60, {"initial_lr": 0.001})
    assert (overlay["network"], overlay["features"], list(overlay["nnssl"])) == ("TransASPPUNet", SHARED["features"], ["teacher"])
    teacher = MethodConfig.from_dict(overlay["nnssl"]).teacher
    assert (teacher.initial_lr, teacher.weight_decay, teacher.distillation_epochs) == (0.001, 0.01, 0)
    assert steps(MethodConfig.from_dict(overlay["nnssl"]))[0] == 3000
    assert shared["nnssl"]["teacher"]["initial_lr"] == 0.003  # the run's own overlay is left as it is


def test_teachers_are_trained_once_for_all_arms(tmp_path: Path) -> None:
    jobs = jobs_of(draw(tmp_path), [ARMS[name] for name in ("ours", "naive", "supervised")], LENGTHS)
    names = [job.name for job in jobs]
    assert [name for name in names if ".teacher.f" in name] == [f"development_l8_d0.teacher.f{fold}" for fold in range(5)]
    assert JobQueue(jobs, tmp_path).states(since=0)["development_l8_d0.prepare"] == "ready"
    by_name = {job.name: job for job in jobs}
    assert by_name["development_l8_d0.ours.copy"].needs == ("development_l8_d0.ours.plans", "development_l8_d0.teacher.audit")
    assert "development_l8_d0.teacher.audit" not in by_name["development_l8_d0.supervised"].needs


def test_teachers_are_evaluated_as_they_are(tmp_path: Path) -> None:
    jobs = jobs_of(draw(tmp_path), [ARMS["teacher"]], LENGTHS)
    assert jobs[-1].name == "development_l8_d0.teacher.evaluate"
    assert jobs[-1].needs == (jobs[-2].name,) == ("development_l8_d0.teacher.audit",)
    # the same jobs that a student needs, and no training besides
    assert jobs[:-1] == jobs_of(draw(tmp_path), [ARMS["ours"]], LENGTHS)[: len(jobs) - 1]


def test_what_has_a_row_is_not_made_again(tmp_path: Path) -> None:
    drawn, arms = draw(tmp_path), [ARMS[name] for name in ("supervised", "ours", "naive")]
    drawn.row(ARMS["ours"]).parent.mkdir()
    for name in ("ours", "naive"):
        drawn.row(ARMS[name]).write_text("{}")
    names = [job.name for job in jobs_of(drawn, arms, LENGTHS)]
    assert names == [f"development_l8_d0.{job}" for job in ("prepare", "supervised.plans", "supervised", "supervised.evaluate")]
    drawn.row(ARMS["supervised"]).write_text("{}")
    assert jobs_of(drawn, arms, LENGTHS) == []


def test_arms_of_the_shared_teachers_come_first(tmp_path: Path) -> None:
    names = [job.name for job in jobs_of(draw(tmp_path), [ARMS[name] for name in ("supervised", "ours", "ceiling", "naive")], LENGTHS)]
    order = [name.split(".")[1] for name in names if name.endswith(".evaluate")]
    assert order == ["ours", "naive", "supervised", "ceiling"]


def test_other_settings_under_the_same_name_are_refused(tmp_path: Path) -> None:
    jobs_of(draw(tmp_path), [ARMS["ours"]], LENGTHS)
    jobs_of(draw(tmp_path), [ARMS["ours"]], LENGTHS)
    with pytest.raises(ValueError, match=r"overlays/ours.json has other settings than 'ours' has now"):
        jobs_of(draw(tmp_path), [ARMS["ours"]], replace(LENGTHS, student_epochs=7))


def test_all_trainings_have_the_network_asked_for(tmp_path: Path) -> None:
    jobs = {job.name: job for job in jobs_of(draw(tmp_path, network="plans"), [ARMS["ours"], ARMS["supervised"]], LENGTHS)}
    name = "development_l8_d0_plans"
    for job in (f"{name}.teacher.f0", f"{name}.ours", f"{name}.supervised"):
        command = jobs[job].command
        assert command[command.index("-tr") + 1] == "PlansNetworkTeacherTrainer"
    assert jobs[f"{name}.ours"].command[-1] == "SemiSupervisedStudentTrainer"
    assert json.loads((tmp_path / name / "overlays" / "ours.json").read_text())["network"] == "plans"
    with pytest.raises(ValueError, match="naive: NaiveSelfTrainingTrainer trains TransASPPUNet alone"):
        jobs_of(draw(tmp_path, network="plans"), [ARMS["naive"]], LENGTHS)


def test_nnunet_finds_the_teacher_with_the_planned_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = draw(tmp_path, network="plans")
    monkeypatch.setenv("nnUNet_extTrainer", drawn.environment["nnUNet_extTrainer"])
    trainer = recursive_find_trainer_class_by_name(drawn.teacher_trainer)
    assert trainer.__name__ == "PlansNetworkTeacherTrainer"
    assert trainer.build_network_architecture is nnUNetTrainer.build_network_architecture
    assert trainer.print_plans is PhasedTrainer.print_plans


def test_members_of_an_ensemble_learn_from_every_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = draw(tmp_path, labels=4, teachers="members")
    jobs = {job.name: job for job in jobs_of(drawn, [ARMS["ours"]], LENGTHS)}
    command = jobs["development_l4_d0.ours"].command
    at = command.index("--teacher-folds") + 1
    assert command[at : at + 4] == ("0", "1", "2", "3")
    for name in ("teacher", "ours"):  # no case is held out that could calibrate
        overlay = json.loads((tmp_path / "development_l4_d0" / "overlays" / f"{name}.json").read_text())
        assert overlay["nnssl"]["evidence"]["confidence"] == "paper"
    monkeypatch.setenv("nnUNet_extTrainer", drawn.environment["nnUNet_extTrainer"])
    trainer = recursive_find_trainer_class_by_name(drawn.teacher_trainer)
    monkeypatch.setattr(TransASPPTeacherTrainer, "do_split", lambda _: (["c", "a"], ["b"]))
    assert trainer.do_split(object.__new__(trainer)) == (["a", "b", "c"], ["b"])
    with pytest.raises(ValueError, match=r"members are of TransASPPUNet, not of --network plans"):
        jobs_of(draw(tmp_path, labels=4, teachers="members", network="plans"), [ARMS["ours"]], LENGTHS)


def test_every_run_has_dataset_ids_of_its_own(tmp_path: Path) -> None:
    jobs = jobs_of(draw(tmp_path), list(ARMS.values()), LENGTHS)
    ids = [job.command[job.command.index("--first-id") + 1] for job in jobs if "--first-id" in job.command]
    assert len(set(ids)) == len(ids) == len([arm for arm in ARMS.values() if arm.kind == "run"]) + 1


def test_supervised_arms_need_no_teacher(tmp_path: Path) -> None:
    jobs = jobs_of(draw(tmp_path), [ARMS["supervised"], ARMS["ceiling"]], LENGTHS)
    assert not [job.name for job in jobs if ".teacher" in job.name]
    ceiling = next(job for job in jobs if job.name == "development_l8_d0.ceiling")
    assert ceiling.command[1] == "138"


@pytest.mark.parametrize(
    ("labels", "asked", "folds"),
    [(4, None, ["all"]), (4, "folds", [0, 1, 2, 3]), (8, None, [0, 1, 2, 3, 4]), (8, "single", ["all"]), (32, None, [0, 1, 2, 3, 4])],
)
def test_teachers_are_those_of_the_product_or_what_is_asked_for(
    tmp_path: Path, labels: int, asked: str | None, folds: list[int | str]
) -> None:
    drawn = draw(tmp_path, labels=labels, teachers=asked)
    jobs = {job.name: job for job in jobs_of(drawn, [ARMS["ours"], ARMS["supervised"]], LENGTHS)}
    name = f"development_l{labels}_d0"
    assert [job.removeprefix(f"{name}.teacher.f") for job in jobs if ".teacher.f" in job] == [str(fold) for fold in folds]
    command = jobs[f"{name}.ours"].command
    at = command.index("--teacher-folds") + 1
    assert command[at : at + len(folds)] == tuple(map(str, folds))
    assert command[at + len(folds)].startswith("--")
    evaluate = jobs[f"{name}.ours.evaluate"].command
    assert evaluate[evaluate.index("--teachers") + 1] == ("single" if folds == ["all"] else "folds")
    # steps of the control: all teachers and the student
    overlay = json.loads((tmp_path / name / "overlays" / "supervised.json").read_text())
    assert steps(MethodConfig.from_dict(overlay["nnssl"]))[0] == 200 * len(folds) + 300


def test_jobs_run_in_folders_of_their_draw(tmp_path: Path) -> None:
    jobs = jobs_of(draw(tmp_path), [ARMS["supervised"]], LENGTHS)
    assert {job.environment["nnUNet_results"] for job in jobs} == {str(tmp_path / "development_l8_d0" / "nnUNet_results")}


@pytest.mark.parametrize(("before", "now"), [("", "a" * 40), ("a" * 40, None), ("a" * 40, "b" * 40)])
def test_what_was_made_by_another_frozen_commit_is_not_gone_on_with(tmp_path: Path, before: str, now: str | None) -> None:
    of_draw = draw(tmp_path)
    of_draw.root.mkdir(parents=True)
    (of_draw.root / benchmark.READY).write_text(json.dumps({"frozen": before}))
    arguments = argparse.Namespace(**{**vars(of_draw.arguments), "frozen": now, "teacher_epochs": 1, "student_epochs": 1, "list": True})
    with pytest.raises(SystemExit, match=f"was made with the frozen commit {before or 'none'}, not {now or 'none'}; choose another --out"):
        benchmark.drain_draws([of_draw], [ARMS["ours"]], arguments)
