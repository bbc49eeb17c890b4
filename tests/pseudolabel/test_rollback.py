"""Refined labels are refused where the student is worse by a test, not where one mean is lower than the other."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from cross_fitted import smaller
from tiny_setup import Project, grow_stage, open_tiny_run, phantom, teacher_store, write_evidence, write_student

from nnunet_ssl.data.manifest import PredictionsRecord
from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.pseudolabel.rollback import worse_than_in_force

BEST, GOOD, POOR = ([base - step * i for i in range(5)] for base, step in ((0.9, 0.01), (0.8, 0.02), (0.6, 0.03)))
"""Dice of five validation cases."""


def write_summary(model: ModelLocation, fold: int | str, dice: list[Any]) -> None:
    """nnU-Net's summary with the Dice of class 1 of every case; class 2 is in none."""
    cases = [
        {"reference_file": f"/labels/lab_{i}.nii.gz", "metrics": {"1": {"Dice": value}, "2": {"Dice": float("nan")}}}
        for i, value in enumerate(dice)
    ]
    path = model.validation_summary(fold)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"metric_per_case": cases, "foreground_mean": {"Dice": 0.5}}))


@pytest.fixture
def run(taught_project: Project) -> Any:
    """Stage 1 is written and its student trained; evidence of the student equals the teacher's."""
    begun = open_tiny_run(taught_project)
    write_evidence(teacher_store(begun))
    grow_stage(begun)
    write_student(begun, 1)
    write_evidence(begun.student_store(1))
    return begun


# of six cases that all are worse the one-sided test gives 1 / 64, of five 1 / 32, of four 1 / 16
@pytest.mark.parametrize(
    ("before", "after", "is_worse"),
    [
        ([0.8, 0.81, 0.82, 0.83, 0.84], [0.7, 0.72, 0.74, 0.76, 0.78], True),
        ([0.8, 0.81, 0.82, 0.83], [0.1, 0.12, 0.14, 0.16], False),
        ([0.8, 0.81, 0.82, 0.83, 0.84], [0.81, 0.83, 0.7, 0.75, 0.8], False),
        ([0.8, 0.81, 0.82, 0.83, 0.84], [0.8, 0.81, 0.82, 0.83, 0.84], False),
    ],
)
def test_only_a_test_says_worse(run: Any, before: list[float], after: list[float], is_worse: bool) -> None:
    write_summary(run.teacher, 0, before)
    write_summary(run.student(1), 0, after)
    found = worse_than_in_force(run, 1, in_force=None)
    assert (found is not None) is is_worse
    if found:
        assert found == "student 1 is worse than the teacher on 5 validation cases (mean Dice 0.8700 after 0.9100, Wilcoxon p = 0.031)"


def test_labels_are_kept(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    write_summary(run.teacher, 0, [0.8, 0.81, 0.82, 0.83, 0.84])
    write_summary(run.student(1), 0, [0.7, 0.72, 0.74, 0.76, 0.78])
    with caplog.at_level(logging.WARNING, "nnunet_ssl"):
        record = grow_stage(run)
    assert (record.kept_previous, record.label_stage, record.agreement_weight) == (True, None, 0.0)
    assert any("student 1 is worse than the teacher" in m and "the labels of stage 1 are kept" in m for m in caplog.messages)


@pytest.mark.parametrize("lacking", ["teacher", "student"])
def test_a_comparison_without_figures_is_said(run: Any, lacking: str, caplog: pytest.LogCaptureFixture) -> None:
    write_summary(run.teacher, 0, [0.8, 0.81, 0.82, 0.83, 0.84])
    write_summary(run.student(1), 0, [0.7, 0.72, 0.74, 0.76, 0.78])
    model = run.teacher if lacking == "teacher" else run.student(1)
    model.validation_summary(0).unlink()
    with caplog.at_level(logging.WARNING, "nnunet_ssl"):
        assert worse_than_in_force(run, 1, in_force=None) is None
    (message,) = caplog.messages
    assert f"for {model.validation_summary(0)} is missing; to validate: nnUNetv2_train " in message
    assert message.endswith(" --val")


def test_predictions_are_no_model_to_compare_with(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    write_summary(run.student(1), 0, POOR)
    run.manifest.predictions = PredictionsRecord(["/elsewhere"], "stamp", "nnUNetTrainer")
    with caplog.at_level(logging.INFO, "nnunet_ssl"):
        assert worse_than_in_force(run, 1, in_force=None) is None
    assert caplog.messages == ["student 1 is not compared with the predictions: these have no figures on validation cases"]


def test_level_of_zero_turns_it_off(taught_project: Project, run: Any) -> None:
    write_summary(run.teacher, 0, [0.8, 0.81, 0.82, 0.83, 0.84])
    write_summary(run.student(1), 0, [0.7, 0.72, 0.74, 0.76, 0.78])
    again = open_tiny_run(taught_project, settings={"agreement.rollback_level": 0.0})
    assert worse_than_in_force(again, 1, in_force=None) is None
    assert grow_stage(again).label_stage == 1


def test_student_is_compared_with_the_model_in_force(run: Any) -> None:
    for model, dice in ((run.teacher, POOR), (run.student(1), BEST), (run.student(2), GOOD)):
        write_summary(model, 0, dice)
    expected = "student 2 is worse than student 1 on 5 validation cases (mean Dice 0.8800 after 0.9400, Wilcoxon p = 0.031)"
    assert worse_than_in_force(run, 2, in_force=1) == expected
    assert worse_than_in_force(run, 2, in_force=None) is None


@pytest.mark.parametrize(
    ("lesions", "num_healthy", "is_worse"),
    [
        # a structure in scans that have none: before, nnU-Net writes no Dice at all
        ([0.0] * 5, 10, True),
        ([-0.1, -0.11, -0.12, -0.13, -0.14], 0, True),
        # four that are worse never are enough, however many have not changed
        ([-0.1, -0.2, -0.3, -0.4] + [0.0] * 12, 0, False),
        ([-0.1] * 3 + [0.0] * 20, 0, False),
        ([-0.1], 0, False),
        ([-0.1] * 5 + [0.0] * 20, 0, True),
    ],
)
def test_what_counts_as_worse(run: Any, lesions: list[float], num_healthy: int, is_worse: bool) -> None:
    nothing = float("nan")
    write_summary(run.teacher, 0, [0.8] * len(lesions) + [nothing] * num_healthy)
    write_summary(run.student(1), 0, [0.8 + change for change in lesions] + [0.0] * num_healthy)
    assert (worse_than_in_force(run, 1, in_force=None) is not None) is is_worse


def test_structures_that_are_no_longer_invented_count(run: Any) -> None:
    write_summary(run.teacher, 0, [0.8, 0.81, 0.82, 0.83, 0.84] + [0.0] * 5)
    write_summary(run.student(1), 0, [0.79, 0.8, 0.81, 0.82, 0.83] + [float("nan")] * 5)
    assert worse_than_in_force(run, 1, in_force=None) is None


def test_student_after_a_refused_one_is_compared_with_the_teacher(taught_project: Project) -> None:
    settings = {"curriculum.fractions": [0.3, 0.6, 1.0], "student.length.num_epochs": 3}
    begun = open_tiny_run(taught_project, settings=settings)
    write_evidence(teacher_store(begun))
    write_summary(begun.teacher, 0, BEST)
    for stage in (1, 2):
        grow_stage(begun)
        write_student(begun, stage)
        write_summary(begun.student(stage), 0, POOR)
        write_evidence(begun.student_store(stage))
    third = grow_stage(begun)
    assert (third.kept_previous, third.label_stage, third.agreement_weight) == (True, None, 0.0)


def test_labels_of_the_student_before_are_kept(taught_project: Project, caplog: pytest.LogCaptureFixture) -> None:
    settings = {"agreement.weight": 0.6, "curriculum.fractions": [0.3, 0.6, 1.0], "student.length.num_epochs": 3}
    begun = open_tiny_run(taught_project, settings=settings)
    write_evidence(teacher_store(begun))
    write_summary(begun.teacher, 0, POOR)
    for stage, dice in ((1, BEST), (2, GOOD)):
        grow_stage(begun)
        write_student(begun, stage)
        write_summary(begun.student(stage), 0, dice)
        write_evidence(begun.student_store(stage), label=lambda case: smaller(phantom(case)[1], 1), doubt=lambda _: 0.1)
    with caplog.at_level(logging.WARNING, "nnunet_ssl"):
        third = grow_stage(begun)
    assert (third.kept_previous, third.label_stage, third.agreement_weight) == (True, 1, 0.6)
    # both students say the same, which the teacher does not
    assert third.change == {"rim": 0.0, "core": 0.0}
    assert any("student 2 is worse than student 1" in m and "the labels of stage 2 are kept" in m for m in caplog.messages)
