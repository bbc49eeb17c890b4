"""Settings that changed between the stages of a run are named, from the manifest and from the stages' plans."""

from __future__ import annotations

import shutil
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_setup import PLANS, Project, grow_stage, open_tiny_run, teacher_store, write_evidence, write_student

from nnunet_ssl.data.changed_settings import changed_settings

SAME = {"tau": 0.7, "case_score": "mean", "calibration": None, "agreement_weight": 0.5, "kept_previous": False}


def test_settings_that_changed(taught_project: Project) -> None:
    run = open_tiny_run(taught_project, settings={"student.length.num_epochs": 4, "agreement.weight": 0.0})
    write_evidence(teacher_store(run))
    grow_stage(run)
    assert changed_settings(run.manifest) == []
    write_student(run, 1)
    changes = {"student.cutmix": 0.0, "student.tau": 0.8, "agreement.max_change": 0.2, "evidence.case_score": "mean"}
    run = open_tiny_run(taught_project, settings={**changes, "student.length.num_epochs": 6})
    grow_stage(run)
    assert changed_settings(run.manifest) == sorted(changes)  # epochs are a stage's own
    shutil.rmtree(taught_project.preprocessed / run.stage_name(1))
    assert changed_settings(run.manifest) == ["evidence.case_score", "student.tau"]


@pytest.mark.parametrize(
    ("second", "third", "named"),
    [
        ({}, {}, []),
        ({}, {"agreement_weight": 0.3}, ["agreement.weight"]),
        ({}, {"agreement_weight": 0.0, "kept_previous": True}, []),  # as the labels of stage 1
        ({"agreement_weight": 0.0}, {}, ["agreement.weight"]),
        ({"calibration": "logistic"}, {}, ["evidence.confidence"]),
        ({"tau": [0.7, 0.8]}, {"tau": [0.7, 0.8]}, ["student.tau"]),
    ],
)
def test_what_the_manifest_records(project: Project, second: dict[str, Any], third: dict[str, Any], named: list[str]) -> None:
    first = SimpleNamespace(stage=1, dataset="none_1", **{**SAME, "agreement_weight": 0.0})
    stages = [first, *(SimpleNamespace(stage=stage, dataset=f"none_{stage}", **SAME) for stage in (2, 3))]
    for record, changes in zip(stages[1:], (second, third), strict=True):
        vars(record).update(changes)
    run: Any = SimpleNamespace(manifest=SimpleNamespace(stages=stages, plans=PLANS))
    assert changed_settings(run.manifest) == named
