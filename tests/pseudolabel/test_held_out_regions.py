"""Held-out cases of a set-up whose network outputs are regions: each region is calibrated, judged and gated by itself."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import blosc2
import numpy as np
import pytest
from cross_fitted import FOLDS, HELD_OUT, smaller
from numpy.typing import NDArray
from tiny_setup import DATASET, IDENTIFIER, POOL, Project, grow_stage, open_tiny_run, phantom

from nnunet_ssl.confidence.calibration_map import CalibrationMap, LogitLine
from nnunet_ssl.confidence.evidence import Evidence
from nnunet_ssl.confidence.foreground_band import foreground_band
from nnunet_ssl.data.stage_sidecar import read_sidecar
from nnunet_ssl.pseudolabel.held_out_study import study_held_out
from nnunet_ssl.pseudolabel.label_source import LabelSource, labels_of
from nnunet_ssl.pseudolabel.manual_labels import manual_label
from nnunet_ssl.pseudolabel.pool_labels import PoolLabels

REGIONS = {"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]}
WHOLE, CORE = 0, 1
Seen = Callable[[str], NDArray[np.uint8]]


@pytest.fixture
def region_project(cross_fitted: Project) -> Project:
    """The cross-fitted set-up, its two classes as a region and one inside it."""
    for root in (cross_fitted.raw, cross_fitted.preprocessed):
        path = root / DATASET / "dataset.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **REGIONS}))
    return cross_fitted


def region_evidence(label: NDArray[np.uint8], *, doubts: tuple[float, float]) -> Evidence:
    """A predictor that is in doubt by another amount in each region, everywhere."""
    inside = np.stack([label > 0, label > 1])
    doubt = np.array(doubts, dtype=np.float32)[:, None, None, None]
    mean = np.where(inside, 1 - doubt, doubt)
    return Evidence(mean=mean, variance=np.zeros_like(mean), votes=mean, num_samples=8, has_regions=True)


def begin(
    project: Project, *, doubts: tuple[float, float] = (0.2, 0.3), seen: Seen = lambda case: phantom(case)[1], **settings: Any
) -> Any:
    """A run of all folds whose teachers see what `seen` says, in the pool and in held-out cases."""
    run = open_tiny_run(project, "all", settings={"student.init": "scratch", **settings})
    for store in run.teacher_stores().values():
        for case in POOL:
            store.write(case, region_evidence(seen(case), doubts=doubts))
    for fold, store in run.held_out_stores().items():
        for case in run.held_out_cases[fold]:
            store.write(case, region_evidence(seen(case), doubts=doubts))
    return run


def test_manual_label_has_a_channel_a_region(region_project: Project) -> None:
    label = phantom("lab_3")[1]
    found = manual_label(region_project.setup(), "lab_3")
    assert np.array_equal(found.truth, np.stack([label > 0, label == 2]))
    assert found.valid.all()


def test_dice_is_that_of_each_region(region_project: Project) -> None:
    study = study_held_out(begin(region_project, seen=lambda case: smaller(phantom(case)[1], int(case[-1]))))
    assert study is not None
    assert sorted(case.case for case in study.cases) == HELD_OUT
    for case in study.cases:
        truth, seen = phantom(case.case)[1], smaller(phantom(case.case)[1], int(case.case[-1]))
        for name, least in (("whole", 1), ("core", 2)):
            expected = 2 * ((truth >= least) & (seen >= least)).sum() / ((truth >= least).sum() + (seen >= least).sum())
            assert case.dice[name] == pytest.approx(expected)
        assert case.scores["expected_dice"] is not None


def test_doubt_of_each_region_is_calibrated_away(region_project: Project) -> None:
    """The teachers are right everywhere, and say 0.8 of the one region and 0.7 of the other."""
    run = begin(region_project)
    study = study_held_out(run)
    assert study is not None
    assert study.calibration.map is not None
    assert study.calibration.map.has_regions
    assert study.maps is not None
    assert set(study.maps) == set(FOLDS)
    assert study.tau is not None
    assert len(study.tau) == 2
    assert study.gate is not None
    assert study.gate.shape == (2, 10)
    assert not study.gate.any()
    assert study.blind == ()
    stored = run.teacher_stores()[0].read("pool_0")
    band = foreground_band(stored.foreground())
    assert 0 < band.sum() < band.size
    calibrated, plain = (labels_of(run, LabelSource(None, 0.0), s).labels("pool_0") for s in (study, None))
    assert calibrated.confidence.shape == plain.confidence.shape == (2, *band.shape)
    for region, said in ((WHOLE, 0.8), (CORE, 0.7)):
        assert calibrated.confidence[region][band].min() > 0.95
        # outside the band nothing was measured
        np.testing.assert_allclose(calibrated.confidence[region][~band], said, atol=1e-4)
        np.testing.assert_allclose(plain.confidence[region], said, atol=1e-4)
    assert np.array_equal(calibrated.labels, phantom("pool_0")[1])


def test_stage_has_one_calibrated_confidence_a_region(region_project: Project) -> None:
    run = begin(region_project)
    record = grow_stage(run)
    study = study_held_out(run)
    assert study is not None
    assert study.calibration.map is not None
    assert record.calibration == study.calibration.map.kind
    assert record.tau == list(study.tau or ())
    case = record.cases[0]
    targets = blosc2.open(str(region_project.preprocessed / record.dataset / f"{IDENTIFIER}__nnssl" / f"{case}.b2nd"), mode="r")[:]
    confidence = labels_of(run, LabelSource(None, 0.0), study).labels(case).confidence
    assert targets.shape == (1 + 2 + 2, *confidence.shape[1:])
    np.testing.assert_allclose(targets[1:3] / 1e4, confidence, atol=1e-4)


def test_region_that_the_teachers_never_find(region_project: Project, caplog: pytest.LogCaptureFixture) -> None:
    run = begin(region_project, seen=lambda case: np.minimum(phantom(case)[1], 1))
    sidecar = read_sidecar(region_project.raw / grow_stage(run).dataset)
    assert sidecar is not None
    assert sidecar["blind_heads"] == [CORE]
    assert any("hardly ever finds the class 'core'" in message for message in caplog.messages)
    assert not any("'whole'" in message for message in caplog.messages)


def test_gate_asks_of_the_doubtful_regions_alone(region_project: Project) -> None:
    """Where one region is certain its gate does not matter; where both are doubtful both gates must be open."""
    unchanged = CalibrationMap(kind="logistic", has_regions=True, heads=(LogitLine(slope=1.0),) * 2)
    gate = np.zeros((2, 10), dtype=bool)
    gate[CORE, 6] = True  # its labels at a confidence of 0.65 are wrong; those of the whole have no open bin
    for doubt_of_whole, is_valid in ((0.1, True), (0.35, False)):
        run = begin(region_project, doubts=(doubt_of_whole, 0.35))
        maps = dict.fromkeys(FOLDS, unchanged)
        labels = PoolLabels(run.setup, run.pool, run.teacher_stores(), None, 0.0, maps=maps, student_map=unchanged, gate=gate)
        case = labels.pseudo_case("pool_0", 0.7, with_probabilities=False)
        assert not case.confident.any()
        assert case.valid.all() if is_valid else not case.valid.any()


def test_a_region_that_is_written_against_its_own_probability_is_not_trusted(region_project: Project) -> None:
    """The core is in the whole: where its probability is high and that of the whole is low, the label says both."""
    run = begin(region_project)
    store = run.teacher_stores()[0]
    stored = store.read("pool_0")
    mean = stored.mean.copy()
    mean[WHOLE, 0, 0, 0], mean[CORE, 0, 0, 0] = 0.2, 0.9
    store.write("pool_0", dataclasses.replace(stored, mean=mean))
    source = LabelSource(None, 0.0)
    found = dataclasses.replace(labels_of(run, source, None), teacher={0: store}).labels("pool_0")
    assert found.labels[0, 0, 0] == 2
    assert found.confidence[WHOLE, 0, 0, 0] <= 0.3
    assert found.confidence[CORE, 0, 0, 0] > 0.6
