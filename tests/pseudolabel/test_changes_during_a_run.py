"""What may change under a run that has begun: the labelled dataset, plans, splits, images of the pool, students, and the run itself."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cross_fitted import cross_fitted
from given_labels import write_labels
from tiny_setup import (
    CONFIGURATION,
    DATASET,
    IDENTIFIER,
    POOL,
    Project,
    digests,
    grow_stage,
    open_tiny_run,
    phantom,
    replace_pool_image,
    teacher_store,
    write_evidence,
    write_image,
    write_student,
)

from nnunet_ssl.data.pseudo_case import PseudoCase
from nnunet_ssl.data.stage_dataset import write_stage
from nnunet_ssl.data.workspace_lock import changing_run
from nnunet_ssl.errors import InputError, SetupError, StateError
from nnunet_ssl.pseudolabel.accept import accept
from nnunet_ssl.pseudolabel.grow import stage_sidecar
from nnunet_ssl.pseudolabel.in_force import in_force
from nnunet_ssl.pseudolabel.label_source import LabelSource, labels_of
from nnunet_ssl.pseudolabel.publish import publish
from nnunet_ssl.pseudolabel.rewrite_stage import rewrite_stage

__all__ = ["cross_fitted"]
"""A fixture."""


def begin(project: Project, **settings: Any) -> Any:
    """A run with evidence of the teacher."""
    run = open_tiny_run(project, settings={k.replace("__", "."): v for k, v in settings.items()})
    write_evidence(teacher_store(run))
    return run


# ---- a case of the pool gets its label, and becomes a labelled case


def label_pool_case(project: Project, case: str) -> list[Path]:
    """Add a case of the pool to the labelled dataset, raw and preprocessed, as nnU-Net would have it; returns its files there."""
    raw, data = project.raw / DATASET, project.preprocessed / DATASET / IDENTIFIER
    image, label = phantom(case)
    write_image(image, raw / "imagesTr" / f"{case}_0000.nii.gz")
    write_image(label, raw / "labelsTr" / f"{case}.nii.gz")
    for ending in (".b2nd", "_seg.b2nd", ".pkl"):
        shutil.copy(data / f"lab_1{ending}", data / f"{case}{ending}")
    for path in (raw / "dataset.json", project.preprocessed / DATASET / "dataset.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "numTraining": 7}))
    return [raw / "labelsTr" / f"{case}.nii.gz", *(data / f"{case}{ending}" for ending in (".b2nd", "_seg.b2nd", ".pkl"))]


def test_a_case_of_the_pool_that_is_labelled_by_now(taught_project: Project) -> None:
    begin(taught_project)
    before = digests(label_pool_case(taught_project, "pool_0"))
    with pytest.raises(InputError, match=r"case 'pool_0' is in the pool .* and a labelled case of Dataset137_Tiny .*--accept instead"):
        open_tiny_run(taught_project)
    assert digests([Path(name) for name in before]) == before


def test_a_stage_is_not_written_over_labelled_files(taught_project: Project) -> None:
    """Whoever comes to `write_stage` with such a pool."""
    run = begin(taught_project)
    pseudo, sidecar, method = first_pseudo_case(run)
    before = digests(label_pool_case(taught_project, "pool_0"))
    with pytest.raises(InputError, match="case 'pool_0' is in the pool"):
        write_stage(run.stage_name(1), taught_project.setup(), run.pool, method, sidecar, [pseudo])
    assert digests([Path(name) for name in before]) == before
    assert not (taught_project.raw / run.stage_name(1)).exists()


def test_no_file_of_a_stage_is_written_twice(taught_project: Project) -> None:
    run = begin(taught_project)
    pseudo, sidecar, method = first_pseudo_case(run)
    with pytest.raises(StateError, match=r"case 'pool_0' is in Dataset601_Tiny_f0s1 twice: pool_0.nii.gz"):
        write_stage(run.stage_name(1), run.setup, run.pool, method, sidecar, [pseudo, pseudo])


def first_pseudo_case(run: Any) -> tuple[PseudoCase, Any, Any]:
    """The pseudo-label of pool_0, and sidecar and settings of a stage that has it alone."""
    now, teacher = in_force(run), LabelSource(None, 0.0)
    pseudo = labels_of(run, teacher, now.study).pseudo_case("pool_0", now.method.student.fixed_tau, with_probabilities=True)
    return pseudo, stage_sidecar(run, 1, ["pool_0"], {}, teacher, now, is_last=False), now.method


# ---- plans


def test_plans_of_the_teacher_are_others_by_now(taught_project: Project) -> None:
    run = begin(taught_project)
    path = run.teacher.folder / "plans.json"
    plans = json.loads(path.read_text())
    plans["configurations"][CONFIGURATION]["spacing"] = [1.0, 1.0, 0.8]
    path.write_text(json.dumps(plans))
    wanted = (
        r"TransASPPTeacherTrainer__\S+ was trained on other images than \S+json makes now: 'spacing' is \[1.0, 1.0, 0.8\] in \S+plans.json"
    )
    with pytest.raises(StateError, match=wanted):
        open_tiny_run(taught_project)


@pytest.mark.parametrize(("scheme", "matters"), [("ZScoreNormalization", False), ("CTNormalization", True)])
def test_intensities_matter_where_they_normalise(taught_project: Project, scheme: str, matters: bool) -> None:
    """A dataset that was planned again with more cases has other intensities."""
    taught_project.change_plans(lambda plans, configuration: configuration.update(normalization_schemes=[scheme]))
    taught_project.prepare_pool()
    path = next((taught_project.results / DATASET).iterdir()) / "plans.json"
    plans = json.loads(path.read_text())
    plans["configurations"][CONFIGURATION]["normalization_schemes"] = [scheme]
    plans["foreground_intensity_properties_per_channel"]["0"]["mean"] += 1
    path.write_text(json.dumps(plans))
    if matters:
        with pytest.raises(StateError, match=r"was trained on other images .* 'intensities' is"):
            open_tiny_run(taught_project)
    else:
        open_tiny_run(taught_project)


def change_checkpoint(project: Project, fold: int, change: Callable[[dict[str, Any]], Any]) -> None:
    """Edit the final checkpoint of a fold of the teacher in place."""
    path = next((project.results / DATASET).iterdir()) / f"fold_{fold}" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    change(checkpoint)
    torch.save(checkpoint, path)


def test_one_fold_of_the_teacher_was_trained_by_other_plans(cross_fitted: Project) -> None:
    """The plans beside the model are those of its newest training, of another fold."""

    def other_spacing(checkpoint: dict[str, Any]) -> None:
        checkpoint["init_args"]["plans"]["configurations"][CONFIGURATION]["spacing"] = [1.0, 1.0, 0.8]

    change_checkpoint(cross_fitted, 3, other_spacing)
    wanted = (
        r"fold_3/checkpoint_final\.pth was trained on other images than \S+/plans\.json makes: 'spacing' is \[1\.0, 1\.0, 0\.8\] in .*"
        r"; train that fold again: nnUNetv2_train 137 3d_fullres 3 -tr TransASPPTeacherTrainer -p nnUNetPlans_nnssl_tiny$"
    )
    with pytest.raises(StateError, match=wanted):
        open_tiny_run(cross_fitted, "all")
    assert not list(cross_fitted.results.glob("*/*/*/nnssl/manifest.json"))


@pytest.mark.parametrize(("scheme", "matters"), [("ZScoreNormalization", False), ("CTNormalization", True)])
def test_intensities_of_one_fold_matter_where_they_normalise(cross_fitted: Project, scheme: str, matters: bool) -> None:
    def use(plans: dict[str, Any], *, more: int = 0) -> None:
        plans["configurations"][CONFIGURATION]["normalization_schemes"] = [scheme]
        plans["foreground_intensity_properties_per_channel"]["0"]["mean"] += more

    cross_fitted.change_plans(lambda plans, _: use(plans))
    cross_fitted.prepare_pool()
    shutil.copy(cross_fitted.plans_file, next((cross_fitted.results / DATASET).iterdir()) / "plans.json")
    for fold in range(5):
        change_checkpoint(cross_fitted, fold, lambda checkpoint, more=fold // 4: use(checkpoint["init_args"]["plans"], more=more))
    if matters:
        with pytest.raises(StateError, match=r"fold_4/checkpoint_final\.pth was trained on other images .* 'intensities' is"):
            open_tiny_run(cross_fitted, "all")
    else:
        assert open_tiny_run(cross_fitted, "all").manifest.teacher_folds == [0, 1, 2, 3, 4]


def test_checkpoint_that_does_not_say_its_plans(cross_fitted: Project) -> None:
    change_checkpoint(cross_fitted, 3, lambda checkpoint: checkpoint["init_args"].pop("plans"))
    assert open_tiny_run(cross_fitted, "all").manifest.teacher_folds == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", [tuple, np.array])
def test_plans_that_a_trainer_has_edited_in_its_constructor(taught_project: Project, kind: Callable[[Any], Any]) -> None:
    """As nnU-Net's `_Primus_S_96_BS1` does; its checkpoint keeps what it has put there, `plans.json` a list."""

    def edit(checkpoint: dict[str, Any]) -> None:
        configuration = checkpoint["init_args"]["plans"]["configurations"][CONFIGURATION]
        configuration.update(patch_size=kind(configuration["patch_size"]), spacing=kind(configuration["spacing"]))

    change_checkpoint(taught_project, 0, edit)
    assert open_tiny_run(taught_project).manifest.teacher_folds == [0]


# ---- splits


def test_splits_change_under_cross_fitted_teachers(cross_fitted: Project) -> None:
    """Held-out cases would be cases that their teacher has seen."""
    run = open_tiny_run(cross_fitted, "all")
    summary = run.teacher.validation_summary(0)
    summary.parent.mkdir()
    summary.write_text(json.dumps({"metric_per_case": [{"reference_file": "x/lab_0.nii.gz"}]}))
    assert open_tiny_run(cross_fitted, "all").manifest.teacher_folds == [0, 1, 2, 3, 4]
    path = cross_fitted.preprocessed / DATASET / "splits_final.json"
    splits = json.loads(path.read_text())
    path.write_text(json.dumps([splits[1], splits[0], *splits[2:]]))
    with pytest.raises(
        StateError, match=r"fold 0 of the splits holds out case 'lab_1', on which \S+ was not validated .* splits have changed"
    ):
        open_tiny_run(cross_fitted, "all")


# ---- images


def test_evidence_of_an_image_that_was_replaced(taught_project: Project, tmp_path: Path) -> None:
    run = begin(taught_project)
    replace_pool_image(taught_project, "pool_0", tmp_path / "repaired")
    store = teacher_store(open_tiny_run(taught_project))
    assert [case for case in POOL if not store.has(case)] == ["pool_0"]
    with pytest.raises(StateError, match=r"pool_0.b2nd is of an image of case 'pool_0' that was replaced; run nnssl_pseudolabel again"):
        grow_stage(run, rescore=True)
    grow_stage(run)
    assert store.has("pool_0")


# ---- an earlier student


def test_evidence_of_an_earlier_student_is_gathered_again(taught_project: Project, caplog: pytest.LogCaptureFixture) -> None:
    """The labels of stage 2, with which those of stage 3 are compared, are the student's of stage 1."""
    run = two_stages(taught_project)
    shutil.rmtree(run.student_store(1).folder)
    write_student(run, 2)
    write_evidence(run.student_store(2))
    with caplog.at_level(logging.INFO, "nnunet_ssl"):
        third = grow_stage(run)
    assert third.label_stage == 2
    assert "evidence of the student of stage 1: 6 cases swept" in caplog.text


def test_an_earlier_student_that_is_still_needed_is_named_before_anything_is_swept(taught_project: Project) -> None:
    run = two_stages(taught_project)
    write_student(run, 2)
    checkpoint = run.student(1).checkpoint(0)
    checkpoint.unlink()
    with pytest.raises(SetupError, match=r"Dataset601_Tiny_f0s1\S+checkpoint_final.pth is gone: .* labels of stage 2, .*; put it back"):
        grow_stage(run)
    assert not (run.workspace / "evidence" / "student_s2").exists()


def two_stages(project: Project) -> Any:
    """A run of three stages, two of which are written, the second with labels of the first student."""
    run = begin(
        project, agreement__weight=0.5, agreement__max_change=1.0, curriculum__fractions=[0.3, 0.6, 1.0], student__length__num_epochs=3
    )
    grow_stage(run)
    write_student(run, 1)
    write_evidence(run.student_store(1), doubt=lambda case: 0.1)
    assert grow_stage(run).label_stage == 1
    return run


# ---- the run, by another process


def test_labels_are_not_accepted_while_a_stage_is_written(taught_project: Project, tmp_path: Path) -> None:
    """The process that writes it would save a manifest without them."""
    run = begin(taught_project)
    write_labels(tmp_path / "given", {"pool_0": phantom("pool_0")[1]})
    with changing_run(run.workspace), pytest.raises(StateError, match="another process is writing a stage"):
        accept(open_tiny_run(taught_project), tmp_path / "given")
    assert open_tiny_run(taught_project).manifest.accepted == {}


def test_a_stage_is_not_written_by_who_does_not_know_of_accepted_labels(taught_project: Project, tmp_path: Path) -> None:
    run = begin(taught_project)
    write_labels(tmp_path / "given", {"pool_0": phantom("pool_0")[1]})
    accept(open_tiny_run(taught_project), tmp_path / "given")
    with pytest.raises(StateError, match=r"another process has changed the run in .* in the meantime"):
        grow_stage(run)
    assert list(open_tiny_run(taught_project).manifest.accepted) == ["pool_0"]


def test_one_process_at_a_time_writes_a_stage_again_or_publishes(taught_project: Project) -> None:
    run = begin(taught_project)
    grow_stage(run)
    with changing_run(run.workspace):
        for change in (lambda: rewrite_stage(run, 1, device="cpu"), lambda: publish(run)):
            with pytest.raises(StateError, match="another process is writing a stage"):
                change()
