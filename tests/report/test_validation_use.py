"""What the report says of the validation cases that its figures stand on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.report.collect import collect
from nnunet_ssl.report.page import page

TEACHER = "TransASPPTeacherTrainer"
STUDY: dict[str, Any] = {
    "schema": 2,
    "cases": [{"mean_dice": 0.8}],
    "calibration": {"map": None, "ece_before": None, "ece_after": None},
    "ranking": {"chosen": "mean", "proofs": {"mean": {"reason": "mean is unproven"}}},
    "tau": None,
}
CALIBRATED = "2 labelled validation cases that no network trained on, but which also calibrated the labels"
PREDICTIONS = {"folders": ["/p"], "stamp": "0", "start_trainer": TEACHER}


CALIBRATING = MethodConfig().with_settings({"evidence.confidence": "calibrated"}).to_dict()


def text_of(run: Any) -> str:
    return page(collect(run.setup, run.fold, TEACHER), [], {})


def write_study(run: Any) -> None:
    (run.workspace / "held_out.json").write_text(json.dumps(STUDY))


def test_cases_that_decide_nothing_are_unseen(complete_run: Any) -> None:
    write_study(complete_run)  # of an earlier run in the workspace
    text = text_of(complete_run)
    assert "report (2 validation cases unseen)" in text
    assert "2 labelled validation cases that neither teacher nor student saw; the teacher alone" in text
    assert "Held-out cases" not in text


@pytest.mark.parametrize("entries", [{"calibration": "logistic"}, {"method": CALIBRATING}])
def test_cases_that_calibrated_are_not(complete_run: Any, entries: dict[str, Any]) -> None:
    complete_run.change(**entries)
    text = text_of(complete_run)
    assert "unseen" not in text
    assert "report (2 validation cases, which also calibrated the labels)" in text
    assert f"{CALIBRATED}; the teacher alone" in text


def test_held_out_cases_of_a_fold_are_its_validation_cases(complete_run: Any) -> None:
    complete_run.change(method=CALIBRATING)
    write_study(complete_run)
    text = text_of(complete_run)
    assert "mean is unproven" in text
    assert "They are the validation cases of this fold, on which the figures of this page stand." in text


def test_held_out_cases_of_final_mode_are_no_validation_cases(final_run: Any) -> None:
    write_study(final_run)
    assert "Held-out cases" not in text_of(final_run)  # its teacher has seen every label
    final_run.change(teacher_folds=[0, 1])
    text = text_of(final_run)
    assert "Held-out cases" in text
    assert "validation cases of this fold" not in text


def test_cases_that_the_model_of_predictions_may_have_seen(complete_run: Any) -> None:
    complete_run.change(predictions=PREDICTIONS, method=CALIBRATING)
    text = text_of(complete_run)
    assert "unseen" not in text
    assert "report (2 validation cases, which the predictions&#x27; model may have seen)" in text
    assert "calibrated the labels" not in text


def test_labels_that_the_rollback_test_may_have_kept(complete_run: Any) -> None:
    kept = "; a test on them may have kept the labels of stages 1, 2)"
    note = "The labels of stages 1, 2 were kept from the stage before, which a test on these cases may have decided."
    complete_run.change(kept_previous=True)
    assert f"report (2 validation cases unseen{kept}" in text_of(complete_run)
    assert note in text_of(complete_run)
    complete_run.change(method=MethodConfig().with_settings({"agreement.rollback_level": 0.0}).to_dict())
    assert "may have" not in text_of(complete_run)


def test_study_of_an_earlier_run_is_not_shown(toy_run: Any) -> None:
    """Whoever begins anew in a workspace finds it there until a stage is written."""
    toy_run.train(toy_run.teacher, dice=(0.2, 0.5))
    toy_run.begin()
    toy_run.change(method=CALIBRATING)
    write_study(toy_run)
    assert "Held-out cases" not in text_of(toy_run)
