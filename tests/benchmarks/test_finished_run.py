"""What a finished run leaves behind: the row as the summary reads it, steps by the settings, logs without the machine's folders."""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

import finished_run
import numpy as np
import pytest
import SimpleITK as sitk
from arms import ARMS, Arm, Lengths, overlay_of
from case_metrics import read_cases
from draw import Draw
from finished_run import CASES, evaluate, fingerprint, predict, steps, teacher_of
from runs_table import read_rows

from nnunet_ssl.data.files import write_json

LENGTHS = Lengths(teacher_epochs=4, student_epochs=6)
TRUTH = np.zeros((1, 4, 6), dtype=np.uint8)
TRUTH[0, 1:3, 1:3], TRUTH[0, 1:3, 3:5] = 1, 2


def overlay(arm: Arm, folds: int, **student: Any) -> dict[str, Any]:
    shared = {"nnssl": {"teacher": {}, "student": student}}
    return overlay_of(arm, shared, LENGTHS, folds)


@pytest.mark.parametrize(
    ("arm", "folds", "whole", "student"),
    [("ours", 1, 500, 300), ("ours", 5, 1300, 300), ("supervised", 5, 1300, 0), ("ceiling", 1, 500, 0), ("teacher", 5, 1000, 0)],
)
def test_steps_are_those_of_the_settings(arm: str, folds: int, whole: int, student: int) -> None:
    found = steps(overlay(ARMS[arm], folds)["nnssl"], ARMS[arm], folds)
    assert found == {"steps": whole, "student_steps": student}


def test_fine_tuning_counts() -> None:
    assert steps(overlay(ARMS["ours"], 1, fine_tune_epochs=2)["nnssl"], ARMS["ours"], 1) == {"steps": 600, "student_steps": 400}


@pytest.fixture
def draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Draw:
    """A draw of 4 labels whose trainings have ended; prediction gives the truth."""
    folders = {name: tmp_path / name for name in ("data", "out", "rows")}
    flags = {
        "split": "development",
        "device": "cpu",
        "teachers": None,
        "network": "TransASPPUNet",
        "frozen": "abc",
        "overlay": tmp_path / "overlay.json",
    }
    drawn = Draw(argparse.Namespace(**folders, **flags), 4, 1)
    for folder in (folders["data"] / "labels", drawn.root / "overlays", folders["out"] / "queue"):
        folder.mkdir(parents=True)
    sitk.WriteImage(sitk.GetImageFromArray(TRUTH), folders["data"] / "labels" / "case.nii.gz")
    write_json(drawn.root / "ready.json", {"labelled": list("abcd"), "pool": ["e"] * 156, "evaluated": ["case"]})
    (folders["out"] / "job_times.csv").write_text(
        f"job,seconds\n{drawn.name}.teacher.fall,10\n{drawn.name}.ours,20\n{drawn.name}.ours,5\n{drawn.name}.ceiling,7\n"
    )
    for checkpoint in drawn.teacher_checkpoints():
        checkpoint.parent.mkdir(parents=True)
        checkpoint.write_bytes(b"weights")
    (folders["out"] / "queue" / f"{drawn.name}.ours.log").write_bytes(f"1 of 2\r2 of 2\nwritten: {drawn.root}/there\n".encode())
    for arm in ("ours", "naive"):
        copied(drawn, arm)
    stages = drawn.model("ours", drawn.teacher_trainer) / "fold_all" / "nnssl"
    (stages / "logs").mkdir(parents=True)
    (stages / "logs" / "student_1.txt").write_text("first stage\n")
    (stages / "logs" / "student_2.txt").write_text("first stage\n")

    def predicted_truth(_draw: Draw, _arm: Arm, folder: Path) -> None:
        folder.mkdir(parents=True)
        sitk.WriteImage(sitk.GetImageFromArray(TRUTH), folder / "case.nii.gz")

    monkeypatch.setattr(finished_run, "predict", predicted_truth)
    return drawn


def copied(draw: Draw, arm: str) -> None:
    """What `copy_teacher` notes of the teachers that an arm starts from."""
    note = draw.model(arm, draw.teacher_trainer) / "copied.json"
    note.parent.mkdir(parents=True, exist_ok=True)
    write_json(note, {"from": "teacher", "teacher": fingerprint(draw.teacher_checkpoints())})


def finish(draw: Draw, arm: str) -> dict[str, Any]:
    write_json(draw.overlay(arm), overlay(ARMS[arm], len(draw.folds)))
    evaluate(draw, ARMS[arm])
    return dict(json.loads(draw.row(ARMS[arm]).read_text()))


def test_a_row_tells_results_and_circumstances(draw: Draw) -> None:
    row = finish(draw, "ours")
    assert (row["labels"], row["draw"], row["arm"], row["cases"], row["frozen"]) == (4, 1, "ours", 1, "abc")
    assert (row["dice"], row["dice_posterior"], row["surface_dice_anterior"], row["hd95_mm_anterior"]) == (100, 100, 100, 0)
    assert (row["steps"], row["student_steps"], row["seconds"], row["teacher_seconds"]) == (500, 300, 25, 10)
    assert len(row["teacher"]) == 16
    assert row["network"] == "TransASPPUNet"
    assert row["torch"]
    assert read_rows(draw.arguments.rows, "development") == [row]


def test_the_cases_lie_beside_their_row(draw: Draw) -> None:
    finish(draw, "ours")
    (case,) = read_cases(draw.row(ARMS["ours"]).with_suffix(CASES)).values()
    assert (case["dice_anterior"], case["volume_mm3_posterior"], case["true_volume_mm3_posterior"]) == (100, 4, 4)


@pytest.mark.parametrize(
    ("arm", "dataset", "trainer", "plans"),
    [
        ("ours", "137", "TransASPPStudentTrainer", "nnUNetPlans_nnssl_ours"),
        ("naive", "137", "NaiveSelfTrainingTrainer", "nnUNetPlans_nnssl_naive"),
        ("supervised_continued", "137", "TransASPPStudentTrainer", "nnUNetPlans_nnssl_supervised_continued"),
        ("supervised", "137", "TransASPPTeacherTrainer", "nnUNetPlans_nnssl_supervised"),
        ("teacher", "137", "TransASPPTeacherTrainer", "nnUNetPlans_nnssl_teacher"),
        ("ceiling", "138", "TransASPPTeacherTrainer", "nnUNetPlans_nnssl_ceiling"),
    ],
)
def test_what_is_judged_is_the_model_of_the_arm(
    draw: Draw, monkeypatch: pytest.MonkeyPatch, arm: str, dataset: str, trainer: str, plans: str
) -> None:
    lines: list[list[str]] = []

    def run(line: list[str], **_: Any) -> argparse.Namespace:
        lines.append(line)
        return argparse.Namespace(returncode=0)

    monkeypatch.setattr(finished_run.subprocess, "run", run)
    predict(draw, ARMS[arm], draw.root / "predictions")
    ((command, *line),) = lines
    flags = {flag: line[line.index(flag) + 1] for flag in ("-d", "-tr", "-p", "-f", "-i", "-o")}
    assert Path(command).name == "nnUNetv2_predict"
    assert (flags["-d"], flags["-tr"], flags["-p"], flags["-f"]) == (dataset, trainer, plans, "all")
    assert (flags["-i"], flags["-o"]) == (str(draw.root / "test"), str(draw.root / "predictions"))
    assert "--disable_tta" not in line


def test_a_ceiling_counts_the_labels_that_it_had(draw: Draw) -> None:
    row = finish(draw, "ceiling")
    assert (row["labels"], row["teacher"], row["seconds"], row["teacher_seconds"]) == (160, "", 7, 0)


def test_arms_of_different_teachers_are_not_compared(draw: Draw) -> None:
    first = finish(draw, "ours")
    draw.teacher_checkpoints()[0].write_bytes(b"other weights")
    assert teacher_of(draw, ARMS["ours"]) == first["teacher"]  # it has started from the ones before, whatever stands there by now
    copied(draw, "naive")
    finish(draw, "naive")
    with pytest.raises(ValueError, match="4 labels, draw 1: naive and ours started from different teachers"):
        read_rows(draw.arguments.rows, "development")


def test_logs_are_kept_without_the_folders_of_the_machine(draw: Draw) -> None:
    finish(draw, "ours")
    text = gzip.decompress(draw.row(ARMS["ours"]).with_suffix(".log.gz").read_bytes()).decode()
    assert text.count("first stage") == 1  # the same text twice says nothing more
    assert "2 of 2" in text
    assert "1 of 2" not in text
    assert f"written: OUT/{draw.name}/there" in text
    assert str(draw.arguments.out) not in text
