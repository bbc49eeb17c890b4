"""Predictions from elsewhere as the teacher: the evidence they leave, the run that they begin, and what is refused."""

from __future__ import annotations

import csv
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from given_labels import probabilities_of, rising, write_predictions
from tiny_setup import (
    CONFIGURATION,
    DATASET,
    OUR_STUDENT,
    OUR_TEACHER,
    PLANS,
    POOL,
    Project,
    grow_stage,
    open_tiny_run,
    phantom,
    replace_pool_image,
    teacher_store,
    write_evidence,
    write_student,
)

from nnunet_ssl.confidence.voxel_confidence import paper_confidence
from nnunet_ssl.data.stage_sidecar import read_sidecar
from nnunet_ssl.errors import ConfigError, InputError, SetupError, StateError
from nnunet_ssl.pseudolabel.predictions import predicted_evidence
from nnunet_ssl.pseudolabel.run import Run

STEP = 1 / 65535


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_predictions(tmp_path / "ensemble")


def begin(project: Project, *folders: Path, fold: int | str = 0, **options: Any) -> Run:
    options = options if folders else {"teacher_trainer": "predictions", **options}
    run: Run = open_tiny_run(project, fold, predictions=folders, **options)
    return run


def evidence(project: Project, case: str, paths: list[Path]) -> Any:
    setup = project.setup()
    return predicted_evidence(setup, open_pool(project), case, paths)


def open_pool(project: Project) -> Any:
    from nnunet_ssl.data.pool_index import load_pool

    return load_pool(project.setup())


# ---- evidence


def test_one_prediction_is_one_sample_without_variance(project: Project, folder: Path) -> None:
    found = evidence(project, "pool_2", [folder / "pool_2.npz"])
    label = phantom("pool_2")[1]
    assert (found.num_samples, found.has_regions, found.log_variance) == (1, False, None)
    # spacing 1 everywhere: the network's grid is the image's
    np.testing.assert_allclose(found.mean, probabilities_of(label, doubt=0.15), atol=1e-6)
    assert not found.variance.any()
    np.testing.assert_array_equal(found.votes, np.arange(3)[:, None, None, None] == label)
    # the probability of the predicted class is all that its confidence can be
    np.testing.assert_allclose(paper_confidence(found), 0.85, atol=1e-6)


def test_several_predictions_are_samples(project: Project, tmp_path: Path) -> None:
    label = phantom("pool_0")[1]
    sure, doubtful = probabilities_of(label, doubt=0.1), probabilities_of(label, doubt=0.3)
    other = probabilities_of(np.zeros_like(label), doubt=0.2)
    paths = [write_predictions(tmp_path / str(i), {"pool_0": p}) / "pool_0.npz" for i, p in enumerate((sure, doubtful, other))]
    found = evidence(project, "pool_0", paths)
    assert found.num_samples == 3
    rim = label == 1
    # class 1 in the rim: 0.9, 0.7 and 0.1
    np.testing.assert_allclose(found.mean[1][rim], 1.7 / 3, atol=1e-6)
    np.testing.assert_allclose(found.variance[1][rim], (0.81 + 0.49 + 0.01) / 3 - (1.7 / 3) ** 2, atol=1e-6)
    np.testing.assert_allclose(found.votes[:, rim], np.array([1, 2, 0])[:, None] / 3 * np.ones(rim.sum()), atol=1e-6)
    np.testing.assert_allclose(found.mean.sum(axis=0), 1, atol=1e-6)


def test_regions_vote_one_by_one(project: Project, tmp_path: Path) -> None:
    import json

    declared = project.preprocessed / DATASET / "dataset.json"
    regions = {"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]}
    declared.write_text(json.dumps({**json.loads(declared.read_text()), **regions}))
    label = phantom("pool_0")[1]
    maps = [np.stack([(label > 0) * p, (label == 2) * q]).astype(np.float32) for p, q in ((0.9, 0.4), (0.7, 0.8))]
    paths = [write_predictions(tmp_path / str(i), {"pool_0": m}) / "pool_0.npz" for i, m in enumerate(maps)]
    found = evidence(project, "pool_0", paths)
    core = label == 2
    assert found.has_regions
    np.testing.assert_allclose(found.votes[:, core], np.array([[1.0], [0.5]]) * np.ones(core.sum()))
    np.testing.assert_allclose(found.mean[:, core], np.array([[0.8], [0.6]]) * np.ones(core.sum()), atol=1e-6)
    np.testing.assert_allclose(found.variance[:, core], np.array([[0.01], [0.04]]) * np.ones(core.sum()), atol=1e-6)


# ---- a run


def test_run_of_predictions(project: Project, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "nnunet_ssl"):
        run = begin(project, folder)
        record = grow_stage(run)
    assert run.workspace == project.results / DATASET / f"predictions__{PLANS}__{CONFIGURATION}" / "fold_0" / "nnssl"
    manifest = run.manifest
    assert (manifest.teacher_trainer, manifest.teacher_folds, manifest.student_trainer) == ("predictions", [0], OUR_STUDENT)
    assert manifest.predictions is not None
    assert (manifest.predictions.folders, manifest.predictions.start_trainer) == ([str(folder)], OUR_TEACHER)
    assert record.cases == POOL[:3]
    assert (record.case_score, record.calibration) == ("foreground", None)
    # foreground confidence of the first three cases: 1 - doubt
    assert record.score_range == pytest.approx((0.85, 0.95), abs=1e-4)
    sidecar = read_sidecar(project.raw / record.dataset)
    assert sidecar is not None
    assert (sidecar["init"], sidecar["init_checkpoint"]) == ("scratch", None)
    assert sidecar["teacher"] == f"predictions__{PLANS}__{CONFIGURATION}"
    assert sidecar["teacher_fingerprint"] == manifest.teacher_fingerprint
    np.testing.assert_allclose(teacher_store(run).read("pool_1").mean, probabilities_of(phantom("pool_1")[1], doubt=0.1), atol=STEP)
    assert "figures of fold 0 are honest only if what made the predictions has not seen its validation cases" in caplog.text
    assert "no trained model is there to start from: stage 1 starts from scratch" in caplog.text
    assert "pairwise_dice needs two samples of the teacher, there is one: the pool is ranked by foreground" in caplog.text
    assert "nobody can know which labels the predictions' model has seen" in caplog.text
    assert "evidence of the predictions: 6 cases taken, 0 were there" in caplog.text


def test_labels_of_the_stage_are_those_predicted(project: Project, folder: Path) -> None:
    import SimpleITK as sitk

    record = grow_stage(begin(project, folder))
    for case in record.cases:
        found = sitk.GetArrayFromImage(sitk.ReadImage(str(project.raw / record.dataset / "labelsTr" / f"{case}.nii.gz")))
        np.testing.assert_array_equal(found, phantom(case)[1])


def test_members_of_an_ensemble_are_ranked_by_their_agreement(project: Project, folder: Path, tmp_path: Path) -> None:
    surer = {case: probabilities_of(phantom(case)[1], doubt=rising(case) / 2) for case in POOL}
    run = begin(project, folder, write_predictions(tmp_path / "second", surer))
    record = grow_stage(run)
    assert record.case_score == "pairwise_dice"
    assert teacher_store(run).read("pool_3").num_samples == 2


def test_student_joins_the_predictions(project: Project, folder: Path) -> None:
    run = begin(project, folder)
    grow_stage(run)
    write_student(run, 1)
    write_evidence(run.student_store(1), doubt=lambda case: 0.1)
    record = grow_stage(run)
    assert (record.case_score, record.label_stage, record.agreement_weight) == ("foreground", 1, 0.5)
    assert record.change == {"rim": 0.0, "core": 0.0}
    with (run.workspace / "ranking_2.csv").open() as file:
        scores = {row["case"]: float(row["score"]) for row in csv.DictReader(file)}
    # where both agree the confidence is the mean of the prediction's, 1 - 0.2, and the student's, 0.9 (1 - 4 0.1^2 / 4)
    assert scores["pool_3"] == pytest.approx((0.8 + 0.9 * (1 - 0.01)) / 2, abs=1e-4)


def test_student_of_ones_own_teacher_starts_from_it(taught_project: Project, folder: Path) -> None:
    """`-tr` names the model whose weights are taken; its own evidence is not."""
    run = begin(taught_project, folder)
    record = grow_stage(run)
    sidecar = read_sidecar(taught_project.raw / record.dataset)
    assert sidecar is not None
    assert sidecar["init"] == "teacher"
    assert sidecar["init_checkpoint"] == f"{DATASET}/{OUR_TEACHER}__{PLANS}__{CONFIGURATION}/fold_0/checkpoint_final.pth"


def test_weights_that_are_not_there(project: Project, folder: Path) -> None:
    run = begin(project, folder, settings={"student.init": "teacher"})
    with pytest.raises(SetupError, match=r"checkpoint_final\.pth is missing, so no weights are there; use --student-init scratch"):
        grow_stage(run)


def test_network_of_the_plans_for_another_trainer(project: Project, folder: Path) -> None:
    for trainer in ("nnUNetTrainer", "predictions"):
        run = begin(project, folder, teacher_trainer=trainer)
        assert run.manifest.student_trainer == "SemiSupervisedStudentTrainer"
        shutil.rmtree(run.workspace)


def test_prediction_of_an_image_that_was_replaced(project: Project, folder: Path, tmp_path: Path) -> None:
    run = begin(project, folder)
    grow_stage(run)
    write_student(run, 1)
    replace_pool_image(project, "pool_0", tmp_path / "repaired")
    write_evidence(run.student_store(1))
    with pytest.raises(StateError, match=r"the image of case 'pool_0' was replaced since its prediction was taken; .* start over"):
        grow_stage(begin(project))


def test_other_predictions_are_not_taken_for_evidence_that_is_lost(project: Project, folder: Path) -> None:
    run = begin(project, folder)
    grow_stage(run)
    write_student(run, 1)
    write_evidence(run.student_store(1))
    teacher_store(run).path("pool_0").unlink()
    write_predictions(folder, {case: probabilities_of(phantom(case)[1], doubt=0.3) for case in POOL})
    with pytest.raises(StateError, match=r"the predictions in \S+ensemble are not those that the run in \S+ began with; put them back"):
        grow_stage(begin(project))
    write_predictions(folder)
    assert grow_stage(begin(project)).stage == 2


def test_final_mode(project: Project, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = begin(project, folder, fold="all")
    assert (run.manifest.teacher_folds, run.held_out_cases) == (["all"], {})
    record = grow_stage(run)
    assert record.calibration is None
    assert "honest only if" not in caplog.text
    assert "confidence is not calibrated, and the ranking is not proven: nobody can know" in caplog.text


# ---- found again


def test_run_is_found_by_its_folder_or_by_its_name(project: Project, folder: Path) -> None:
    begun = begin(project, folder)
    for again in (begin(project, folder), open_tiny_run(project, teacher_trainer="predictions")):
        assert again.manifest == begun.manifest


def test_folder_that_moved(project: Project, folder: Path, tmp_path: Path) -> None:
    begun = begin(project, folder)
    shutil.copytree(folder, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="ensemble is not a folder"):
        grow_stage(open_tiny_run(project, teacher_trainer="predictions"))
    run = begin(project, tmp_path / "elsewhere")
    assert run.manifest.teacher_fingerprint == begun.manifest.teacher_fingerprint
    grow_stage(run)
    found = open_tiny_run(project, teacher_trainer="predictions")
    assert found.manifest.predictions is not None
    assert found.manifest.predictions.folders == [str(tmp_path / "elsewhere")]


def test_folder_is_not_needed_once_there_is_evidence(project: Project, folder: Path) -> None:
    run = begin(project, folder, settings={"agreement.weight": 0.0})
    grow_stage(run)
    write_student(run, 1)
    shutil.rmtree(folder)
    assert grow_stage(open_tiny_run(project, teacher_trainer="predictions")).stage == 2


def test_order_of_members_does_not_matter(project: Project, folder: Path, tmp_path: Path) -> None:
    second = write_predictions(tmp_path / "second", {c: probabilities_of(phantom(c)[1], doubt=0.1) for c in POOL})
    first_print = begin(project, folder, second).manifest.teacher_fingerprint
    assert begin(project, second, folder).manifest.teacher_fingerprint == first_print
    with pytest.raises(StateError, match=r"began with other predictions \(.*ensemble, .*second\); remove .* to start over"):
        begin(project, folder)


def test_other_predictions_are_another_run(project: Project, folder: Path) -> None:
    begin(project, folder)
    os.utime(folder / "pool_0.npz", (1, 1))
    begin(project, folder)
    write_predictions(folder, {"pool_0": probabilities_of(phantom("pool_0")[1], doubt=0.3)})
    with pytest.raises(StateError, match="began with other predictions"):
        begin(project, folder)


# ---- refused


def spoil(case: str, change: Callable[[Path], Any]) -> Callable[[Path], Any]:
    return lambda folder: change(folder / f"{case}.npz")


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (
        spoil("pool_4", Path.unlink),
        r"pool_4\.npz is missing \(1 of 6 pool cases have no file\); predict the whole pool with nnUN",
    ),
    "surplus": (lambda f: write_predictions(f, {"lab_0": np.zeros(1)}), r"lab_0\.npz belongs to no case of the pool \(1 such files\)"),
    "no folder": (shutil.rmtree, "ensemble is not a folder; --from-predictions takes folders that nnUNetv2_predict or nnUNetv2_ensemble"),
    "damaged": (spoil("pool_5", lambda p: p.write_bytes(b"PK")), r"case 'pool_5': .*pool_5\.npz cannot be read"),
    "NaN": (lambda f: write_predictions(f, {"pool_5": np.full((3, 18, 22, 20), np.nan)}), r"pool_5\.npz has \d+ NaN or infinite values"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_predictions_that_cannot_be_used_begin_no_run(project: Project, folder: Path, name: str) -> None:
    change, message = REFUSED[name]
    change(folder)
    with pytest.raises(InputError, match=message):
        begin(project, folder)
    assert not (project.results / DATASET).exists()


def test_what_predictions_do_not_have(project: Project, folder: Path) -> None:
    with pytest.raises(ConfigError, match="names a folder twice"):
        begin(project, folder, folder)
    with pytest.raises(ConfigError, match="--teacher-folds names folds of a model; predictions have none"):
        begin(project, folder, fold="all", teacher_folds=[0, 1])
    with pytest.raises(SetupError, match="no run of fold 0 has begun with predictions; begin one with --from-predictions FOLDER"):
        open_tiny_run(project, teacher_trainer="predictions")


def test_audit_of_predictions(project: Project, folder: Path) -> None:
    from nnunet_ssl.pseudolabel.audit import audit

    found = audit(begin(project, folder), device=torch.device("cpu"))
    assert found.study is None
    assert found.reason.startswith("nothing could be measured, for no label is known to be unseen by a teacher")
    assert found.label_first == POOL[::-1]


def test_ranking_has_the_scores_that_there_are(project: Project, folder: Path) -> None:
    run = begin(project, folder)
    grow_stage(run)
    with (run.workspace / "ranking_1.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["case"] for row in table] == POOL
    assert {row["pairwise_dice"] for row in table} == {""}
    assert [float(row["foreground"]) for row in table] == pytest.approx([1 - rising(case) for case in POOL], abs=1e-4)
