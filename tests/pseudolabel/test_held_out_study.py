"""What held-out cases decide (calibration, thresholds, the ranking, classes that are not found), and when they decide nothing."""

from __future__ import annotations

import json
import logging
import shutil
from typing import Any

import blosc2
import numpy as np
import pytest
from cross_fitted import FOLDS, HELD_OUT, begin, rising, smaller
from tiny_setup import (
    DATASET,
    IDENTIFIER,
    LABELLED,
    POOL,
    Project,
    evidence_of,
    grow_stage,
    open_tiny_run,
    phantom,
    teacher_store,
    write_evidence,
    write_student,
)

from nnunet_ssl.confidence.calibration import calibrated
from nnunet_ssl.confidence.calibration_map import CalibrationMap, LogitLine
from nnunet_ssl.confidence.curriculum import rank_cases
from nnunet_ssl.data.held_out_use import uses_held_out
from nnunet_ssl.data.stage_sidecar import read_sidecar
from nnunet_ssl.pseudolabel.held_out_study import study_held_out
from nnunet_ssl.pseudolabel.in_force import in_force
from nnunet_ssl.pseudolabel.label_source import LabelSource, labels_of
from nnunet_ssl.pseudolabel.manual_labels import manual_label
from nnunet_ssl.pseudolabel.pool_labels import PoolLabels


def test_cross_fitting_is_the_default_of_final_mode(cross_fitted: Project) -> None:
    run = open_tiny_run(cross_fitted, "all")
    assert run.manifest.teacher_folds == FOLDS
    assert sorted(case for cases in run.held_out_cases.values() for case in cases) == HELD_OUT
    for fold, cases in run.held_out_cases.items():
        assert cases == run.setup.fold_cases(fold)[1]
    assert open_tiny_run(cross_fitted, 0).manifest.teacher_folds == [0]


def test_teacher_that_has_all_labels_is_taken_as_it_is(taught_project: Project) -> None:
    model = next((taught_project.results / DATASET).iterdir())
    shutil.copytree(model / "fold_1", model / "fold_all")
    run = open_tiny_run(taught_project, "all")
    assert run.manifest.teacher_folds == ["all"]
    assert run.held_out_cases == {}
    assert study_held_out(run) is None


def test_dice_of_held_out_cases(cross_fitted: Project) -> None:
    run = begin(cross_fitted, doubt=rising)
    study = study_held_out(run)
    assert study is not None
    assert sorted(case.case for case in study.cases) == HELD_OUT
    for case in study.cases:
        truth, seen = phantom(case.case)[1], smaller(phantom(case.case)[1], int(case.case[-1]))
        for name, k in (("rim", 1), ("core", 2)):
            expected = 2 * ((truth == k) & (seen == k)).sum() / ((truth == k).sum() + (seen == k).sum())
            assert case.dice[name] == pytest.approx(expected)


def test_manual_label_is_what_nnunet_preprocessed(project: Project) -> None:
    label = manual_label(project.setup(), "lab_3")
    assert np.array_equal(label.truth, phantom("lab_3")[1])
    assert label.valid.all()
    assert label.nonzero.all()


def test_what_is_invented_on_empty_voxels_counts_against_the_teacher(cross_fitted: Project) -> None:
    """nnU-Net marks empty background by -1, and keeps empty foreground: where the mask ends must not follow from the truth."""

    def seen(case: str) -> Any:
        invented = phantom(case)[1].copy()
        invented[:4] = 1
        return invented

    run = begin(cross_fitted, doubt=lambda _: 0.2, seen=seen)
    for case in HELD_OUT:
        file = run.setup.data_folder / f"{case}_seg.b2nd"
        seg = blosc2.open(str(file))[:]
        seg[0, :6][seg[0, :6] == 0] = -1
        file.unlink()
        blosc2.asarray(seg, urlpath=str(file), mode="w")
        label = manual_label(run.setup, case)
        assert np.array_equal(label.truth, phantom(case)[1])
        assert np.array_equal(label.nonzero, seg[0] >= 0)
        # predicted background out there is certain in a pool case, and judged in none
        assert np.array_equal(label.judged(seen(case) > 0), (seg[0] >= 0) | (seen(case) > 0))
    study = study_held_out(run)
    assert study is not None
    for case in study.cases:
        truth, found = phantom(case.case)[1] == 1, seen(case.case) == 1
        assert case.plain_dice["rim"] == pytest.approx(2 * (truth & found).sum() / (truth.sum() + found.sum()))
        assert case.plain_dice["rim"] < 0.9


def test_doubt_that_is_not_deserved_is_calibrated_away(cross_fitted: Project) -> None:
    """The teacher is right everywhere and says 0.8."""
    run = begin(cross_fitted, doubt=lambda _: 0.2, seen=lambda case: phantom(case)[1])
    study = study_held_out(run)
    assert study is not None
    assert study.maps is not None
    assert set(study.maps) == set(FOLDS)
    assert study.own_maps == ()  # one or two held-out cases a fold
    assert study.calibration.ece_before == pytest.approx(0.13, abs=0.07)
    assert study.calibration.ece_after is not None
    assert study.calibration.ece_after < 0.02
    labels = labels_of(run, LabelSource(None, 0.0), study)
    confidence = labels.labels("pool_0").confidence
    inside = phantom("pool_0")[1] > 0
    assert confidence[0][inside].min() > 0.97
    assert labels_of(run, LabelSource(None, 0.0), None).labels("pool_0").confidence[0][inside].max() < 0.8
    assert study.tau is not None
    assert len(study.tau) == 3
    assert study.gate is not None
    assert not study.gate.any()  # labels that are right are never unlearned
    assert study.blind == ()


def test_ranking_is_proven_or_refuted(cross_fitted: Project, caplog: pytest.LogCaptureFixture) -> None:
    run = begin(cross_fitted, doubt=rising)
    proven = in_force(run)
    assert proven.study is not None
    assert proven.study.ranking.proofs["pairwise_dice"].verdict == "proven"
    assert proven.method.curriculum.order == "ranked"
    # the more certain the teacher, the worse it is
    refuted = in_force(begin(cross_fitted, doubt=lambda case: 0.2 - rising(case)))
    assert refuted.study is not None
    assert refuted.study.ranking.verdict == "refuted"
    assert refuted.method.curriculum.order == "random"
    assert "held-out cases refute the ranking: cases enter in random order" in caplog.messages


def test_refuted_ranking_does_not_order_the_pool(cross_fitted: Project) -> None:
    refuted = grow_stage(begin(cross_fitted, doubt=lambda case: 0.2 - rising(case), curriculum__seed=3))
    assert refuted.order == "random"
    scores = dict.fromkeys(POOL, 1.0)
    at_random = [ranked.case for ranked in rank_cases(scores, dict.fromkeys(POOL, "rim+core"), order="random", seed=3)]
    assert refuted.cases == at_random[: len(refuted.cases)]
    assert refuted.cases != POOL[::-1][: len(refuted.cases)]  # in the order of the score


@pytest.mark.parametrize(("folds", "asked"), [(FOLDS, "pairwise_dice"), ([0, 1], "expected_dice")])
def test_teachers_with_a_single_sample_rank_by_foreground(
    cross_fitted: Project, caplog: pytest.LogCaptureFixture, folds: list[int], asked: str
) -> None:
    """With two folds there is no calibration, so no expected Dice either."""
    run = begin(cross_fitted, doubt=rising, num_samples=1, teacher_folds=folds, evidence__case_score=asked)
    decided = in_force(run)
    assert decided.study is not None
    assert decided.method.evidence.case_score == decided.study.ranking.chosen == "foreground"
    assert "no held-out case has the score pairwise_dice: foreground takes its place" in caplog.messages
    assert ("no held-out case has the score expected_dice: pairwise_dice takes its place" in caplog.messages) == (asked == "expected_dice")
    assert grow_stage(run).case_score == "foreground"


def test_class_that_the_teacher_never_finds(cross_fitted: Project, caplog: pytest.LogCaptureFixture) -> None:
    run = begin(cross_fitted, doubt=rising, seen=lambda case: np.minimum(phantom(case)[1], 1))
    record = grow_stage(run)
    assert in_force(run).blind_heads == [2]
    sidecar = read_sidecar(cross_fitted.raw / record.dataset)
    assert sidecar is not None
    assert sidecar["blind_heads"] == [2]
    assert any("hardly ever finds the class 'core'" in message for message in caplog.messages)


def test_stage_is_written_with_what_was_decided(cross_fitted: Project) -> None:
    run = begin(cross_fitted, doubt=rising)
    record = grow_stage(run)
    study = json.loads((run.workspace / "held_out.json").read_text())
    assert record.calibration == study["calibration"]["map"]["kind"]
    assert record.tau == study["tau"]
    assert (record.case_score, record.order) == (study["ranking"]["chosen"], "ranked")
    plans = json.loads((cross_fitted.preprocessed / record.dataset / f"{run.setup.plans_name}.json").read_text())
    assert plans["configurations"]["3d_fullres"]["nnssl"]["student"]["tau"] == record.tau
    assert CalibrationMap.from_dict(study["calibration"]["map"]) == in_force(run).study.calibration.map  # type: ignore[union-attr]


def test_given_threshold_stays(cross_fitted: Project) -> None:
    run = begin(cross_fitted, doubt=rising, student__tau=0.6)
    assert in_force(run).method.student.tau == 0.6


@pytest.mark.parametrize(
    ("confidence", "fold", "used"), [("auto", "all", True), ("auto", 0, False), ("calibrated", 0, True), ("paper", "all", False)]
)
def test_when_held_out_cases_decide(cross_fitted: Project, confidence: str, fold: int | str, used: bool) -> None:
    method = open_tiny_run(cross_fitted, fold).method.with_settings({"evidence.confidence": confidence})
    assert uses_held_out(method, fold) is used


def test_fold_mode_leaves_its_validation_case_alone(taught_project: Project, caplog: pytest.LogCaptureFixture) -> None:
    run = open_tiny_run(taught_project)
    write_evidence(teacher_store(run))
    with caplog.at_level(logging.INFO, "nnunet_ssl"):
        record = grow_stage(run)
    assert (record.calibration, record.tau) == (None, 0.7)
    assert not (run.workspace / "held_out.json").exists()
    assert not list((run.workspace / "evidence").glob("held_out*"))
    assert any("validation cases that the figures of this fold stand on" in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("settings", "is_warned"),
    [
        ({"student.unlearning": "paper"}, True),
        # a study of a single case gates nothing either
        ({"student.unlearning": "bounded", "evidence.confidence": "calibrated"}, True),
        ({"student.unlearning": "soft"}, False),
        ({"student.unlearning": "paper", "student.unlearning_gate": False}, False),
        ({"student.unlearning": "paper", "student.lambda_low": 0.0}, False),
        ({"student.unlearning": "paper", "student.labelled_share": 1.0}, False),
    ],
)
def test_unlearning_without_a_gate_is_said(
    taught_project: Project, caplog: pytest.LogCaptureFixture, settings: dict[str, Any], is_warned: bool
) -> None:
    run = open_tiny_run(taught_project, settings=settings)
    write_evidence(teacher_store(run))
    grow_stage(run)
    said = f"unlearning '{settings['student.unlearning']}' pushes every doubtful label down: nothing gates it"
    assert (said in caplog.messages) is is_warned


def test_too_few_held_out_cases_are_said(taught_project: Project, caplog: pytest.LogCaptureFixture) -> None:
    """Fold 0 has one validation case."""
    run = open_tiny_run(taught_project, settings={"evidence.confidence": "calibrated"})
    write_evidence(teacher_store(run))
    record = grow_stage(run)
    assert record.calibration is None
    assert any("1 held-out cases" in message and "the paper's is used" in message for message in caplog.messages)


def test_members_are_calibrated_then_averaged(cross_fitted: Project) -> None:
    run = begin(cross_fitted, doubt=lambda _: 0.2)
    maps = {fold: _line(1 + 0.5 * fold) for fold in FOLDS}
    labels = PoolLabels(run.setup, run.pool, run.teacher_stores(), None, 0.0, maps=maps, student_map=maps[0])
    evidence, confidence, valid = labels.evidence("pool_0")
    stored = run.teacher_stores()[0].read("pool_0")
    expected = np.mean([calibrated(stored, maps[fold]) for fold in FOLDS], axis=0)
    np.testing.assert_allclose(evidence.mean, expected, atol=1e-6)
    np.testing.assert_allclose(confidence[0], expected.max(axis=0), atol=1e-6)
    assert evidence.num_samples == 8 * len(FOLDS)
    assert valid.all()


def test_student_is_mixed_in_after_calibration(cross_fitted: Project) -> None:
    run = begin(cross_fitted, doubt=rising)
    grow_stage(run)
    write_student(run, 1)
    run.student_store(1).write("pool_0", evidence_of(np.zeros_like(phantom("pool_0")[1]), doubt=0.1))
    maps = dict.fromkeys(FOLDS, _line(2.0))
    labels = PoolLabels(run.setup, run.pool, run.teacher_stores(), run.student_store(1), 0.25, maps=maps, student_map=_line(1.0))
    evidence, _, valid = labels.evidence("pool_0")
    teacher, student = run.teacher_stores()[0].read("pool_0"), run.student_store(1).read("pool_0")
    np.testing.assert_allclose(evidence.mean, 0.75 * calibrated(teacher, maps[0]) + 0.25 * student.mean, atol=1e-4)
    assert valid.all()  # a calibrated mixture says itself how doubtful a voxel is


def test_doubtful_labels_are_unlearned_only_where_the_gate_is_open(cross_fitted: Project) -> None:
    run = begin(cross_fitted, doubt=lambda _: 0.4)
    maps = dict.fromkeys(FOLDS, _line(1.0))
    label = phantom("pool_0")[1]
    gate = np.zeros((3, 10), dtype=bool)
    gate[1] = True  # of the rim alone
    labels = PoolLabels(run.setup, run.pool, run.teacher_stores(), None, 0.0, maps=maps, student_map=maps[0], gate=gate)
    case = labels.pseudo_case("pool_0", 0.7, with_probabilities=False)
    assert not case.confident.any()
    assert np.array_equal(case.valid, label == 1)
    assert np.array_equal(labels.pseudo_case("pool_0", 0.5, with_probabilities=False).valid, np.ones_like(label, dtype=bool))


def _line(slope: float) -> CalibrationMap:
    return CalibrationMap(kind="logistic", has_regions=False, heads=(LogitLine(slope=slope),) * 3)


def test_every_pool_case_is_scored_by_expected_dice_too(cross_fitted: Project) -> None:
    run = begin(cross_fitted, doubt=rising)
    grow_stage(run)
    header, *rows = (run.workspace / "ranking_1.csv").read_text().splitlines()
    column = header.split(",").index("expected_dice")
    assert len(rows) == len(POOL)
    assert all(0 < float(row.split(",")[column]) <= 1 for row in rows)


def test_fold_whose_training_cases_lack_a_class(cross_fitted: Project, caplog: pytest.LogCaptureFixture) -> None:
    """Only lab_3 has a core: the teacher of its fold has never seen one. The sixth case is held out as well, so that all are known."""
    folder = cross_fitted.preprocessed / DATASET
    splits = [
        {"train": [c for c in LABELLED if c not in held_out], "val": held_out} for held_out in (LABELLED[2:4], LABELLED[:2], LABELLED[4:])
    ]
    (folder / "splits_final.json").write_text(json.dumps(splits))
    for case in (c for c in LABELLED if c != "lab_3"):
        path = folder / IDENTIFIER / f"{case}_seg.b2nd"
        seg = np.minimum(blosc2.open(str(path), mode="r")[:], 1)
        path.unlink()
        blosc2.asarray(seg, urlpath=str(path), mode="w")
    run = begin(cross_fitted, doubt=rising)
    assert in_force(run).study.untaught == {0: ["core"]}  # type: ignore[union-attr]
    assert "no training case of fold 0 has core: its teacher cannot know it" in caplog.messages
    # nor is the class called blind for that: the other teachers know it
    run = begin(cross_fitted, doubt=rising, seen=lambda case: np.minimum(phantom(case)[1], 1))
    assert in_force(run).blind_heads == []


def test_dice_is_of_the_labels_that_the_pool_gets(cross_fitted: Project) -> None:
    """The teacher finds a rim of 0.6 where there is none: argmax M1 has it, argmax q does not once a map has learnt that it is wrong."""

    def seen(case: str) -> Any:
        label = phantom(case)[1].copy()
        label[label == 0] = 1
        return label

    run = begin(cross_fitted, doubt=lambda _: 0.4, seen=seen)
    study = study_held_out(run)
    assert study is not None
    assert study.maps is not None
    for case in study.cases:
        truth, found = phantom(case.case)[1], seen(case.case)
        expected = 2 * ((truth == 1) & (found == 1)).sum() / ((truth == 1).sum() + (found == 1).sum())
        assert case.plain_dice["rim"] == pytest.approx(expected)
        stored = run.held_out_stores()[case.fold].read(case.case)
        written = calibrated(stored, study.maps[case.fold]).argmax(axis=0)
        assert not np.array_equal(written, found)
        expected = 2 * ((truth == 1) & (written == 1)).sum() / max(1, (truth == 1).sum() + (written == 1).sum())
        assert case.dice["rim"] == pytest.approx(expected)
    content = study.to_dict()["cases"][0]
    assert content["plain_mean_dice"] == pytest.approx(study.cases[0].plain_mean_dice)
