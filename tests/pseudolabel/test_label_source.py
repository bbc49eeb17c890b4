"""Whose evidence makes the labels of a stage: refined ones, those of the stage before, and which of them the gate guards."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from cross_fitted import begin, rising, smaller
from tiny_setup import POOL, Project, grow_stage, open_tiny_run, phantom, teacher_store, write_evidence, write_student

from nnunet_ssl.config import UNLEARNING_MODES
from nnunet_ssl.pseudolabel.held_out_study import study_held_out
from nnunet_ssl.pseudolabel.label_source import LabelSource, labels_of


def without_first_plane(case: str) -> Any:
    return smaller(phantom(case)[1], 1)


def without_core(case: str) -> Any:
    return np.minimum(phantom(case)[1], 1)


def changed_share(before: Any, after: Any, value: int) -> float:
    """Share of the voxels of a class in either labelling that are in one only, over the whole pool."""
    pairs = [(before(case) == value, after(case) == value) for case in POOL]
    return float(sum((a ^ b).sum() for a, b in pairs) / sum((a | b).sum() for a, b in pairs))


def test_kept_labels_are_those_of_the_stage_before_and_not_the_teachers(taught_project: Project) -> None:
    settings = {"agreement.weight": 0.6, "curriculum.fractions": [0.3, 0.6, 1.0], "student.length.num_epochs": 3}
    run = open_tiny_run(taught_project, settings=settings)
    write_evidence(teacher_store(run))
    for stage, seen in ((1, without_first_plane), (2, without_core)):
        grow_stage(run)
        write_student(run, stage)
        write_evidence(run.student_store(stage), label=seen, doubt=lambda _: 0.1)
    third = grow_stage(run)
    second = run.manifest.stages[1]
    assert (second.label_stage, second.agreement_weight, second.kept_previous) == (1, 0.6, False)
    assert (third.label_stage, third.agreement_weight, third.kept_previous) == (1, 0.6, True)
    # the student has the larger share of a fused label, so the labels of stage 2 lack a plane, and the refused ones the core
    assert third.change == pytest.approx({"rim": changed_share(without_first_plane, without_core, 1), "core": 1.0})
    for case in POOL:
        written = sitk.GetArrayFromImage(sitk.ReadImage(str(taught_project.raw / third.dataset / "labelsTr" / f"{case}.nii.gz")))
        assert np.array_equal(written, without_first_plane(case))


def test_gate_guards_the_forms_of_unlearning_that_push_a_label_down(cross_fitted: Project) -> None:
    run = begin(cross_fitted, doubt=rising)
    study = study_held_out(run)
    assert study is not None
    assert study.gate is not None

    def has_gate(mode: str, *, asked: bool = True) -> bool:
        method = run.method.with_settings({"student.unlearning": mode, "student.unlearning_gate": asked})
        labels = labels_of(replace(run, method=method), LabelSource(None, 0.0), study)
        assert labels.gate is None or labels.gate is study.gate
        return labels.gate is not None

    assert {mode: has_gate(mode) for mode in UNLEARNING_MODES} == {
        "off": False,
        "paper": True,
        "bounded": True,
        "negative": True,
        "complementary": False,
        "soft": False,
    }
    assert not any(has_gate(mode, asked=False) for mode in UNLEARNING_MODES)
