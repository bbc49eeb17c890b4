"""The notice at the top of the page, where nnU-Net has no mean of all classes."""

from __future__ import annotations

from typing import Any

from nnunet_ssl.report.collect import collect
from nnunet_ssl.report.summary import summary

TEACHER = "TransASPPTeacherTrainer"
NAN = float("nan")


def test_classes_of_no_case(complete_run: Any) -> None:
    complete_run.validate(complete_run.student(2), NAN, NAN)
    text = summary(collect(complete_run.setup, 0, TEACHER))
    assert text.startswith("Student 2 is validated on 2 labelled validation cases that neither teacher nor student saw;")
    assert "since no validation case has or predicts the classes rim, core." in text


def test_a_class_that_the_student_alone_predicts(complete_run: Any) -> None:
    complete_run.validate(complete_run.student(2), 0.75, 0.0)
    complete_run.validate(complete_run.teacher, 0.5, NAN)
    text = summary(collect(complete_run.setup, 0, TEACHER))
    assert text.startswith("Student 2: mean foreground Dice 0.3750 on 2 labelled validation cases")
    assert text.endswith("; the teacher alone has no mean, since it does not predict the class core, which no validation case has.")


def test_a_newest_student_without_a_mean_is_not_passed_over(complete_run: Any) -> None:
    """The figures of the student before it would be taken for the run's."""
    complete_run.validate(complete_run.student(2), 0.75, NAN)
    assert "Student 1" not in summary(collect(complete_run.setup, 0, TEACHER))
