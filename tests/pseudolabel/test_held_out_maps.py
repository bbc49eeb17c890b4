"""Held-out cases are judged as calibrated, each by the map of its own fold, and thresholds lie on the calibrated scale."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cross_fitted import begin
from numpy.typing import NDArray
from tiny_setup import DATASET, LABELLED, Project, evidence_of, phantom

from nnunet_ssl.confidence.case_under_map import evidence_under, scores_of
from nnunet_ssl.confidence.evidence import Evidence
from nnunet_ssl.confidence.foreground_band import foreground_band
from nnunet_ssl.pseudolabel.held_out_study import study_held_out

RIM = 1


@pytest.fixture
def two_halves(taught_project: Project) -> Project:
    """Two folds, each of which holds out the half of the labelled cases that the other is trained on."""
    halves = LABELLED[:3], LABELLED[3:]
    splits = [{"train": [c for c in LABELLED if c not in held_out], "val": held_out} for held_out in halves]
    (taught_project.preprocessed / DATASET / "splits_final.json").write_text(json.dumps(splits))
    return taught_project


def begin_with(project: Project, evidence: Callable[[int, str], Evidence], **settings: Any) -> Any:
    """A run of both folds with `evidence(fold, case)` of every held-out case."""
    run = begin(project, doubt=lambda _: 0.1, teacher_folds=[0, 1], **settings)
    for fold, store in run.held_out_stores().items():
        for case in run.held_out_cases[fold]:
            store.write(case, evidence(fold, case))
    return run


def shell(label: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Background next to the foreground."""
    return np.asarray(foreground_band(label > 0, radius=1) & (label == 0))


# ---- each fold by its own map


def shell_in_doubt(fold: int, case: str) -> Evidence:
    """A rim of 0.6 where the teacher is in doubt: that of fold 0 outside the ball, that of fold 1 in the whole of its rim."""
    truth = phantom(case)[1]
    outside = shell(truth)
    doubtful = outside if fold == 0 else truth == RIM
    seen = np.where(outside, RIM, truth) if fold == 0 else truth
    sure: Evidence = evidence_of(seen, doubt=0.1)
    return replace(sure, mean=np.where(doubtful, evidence_of(seen, doubt=0.4).mean, sure.mean))


def test_each_folds_teacher_is_judged_by_its_own_map(two_halves: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rim of 0.6 is always wrong in fold 0 and always right in fold 1: no map that they share labels both without error."""
    monkeypatch.setattr("nnunet_ssl.confidence.calibration.MIN_CASES", 3)
    study = study_held_out(begin_with(two_halves, shell_in_doubt))
    assert study is not None
    assert study.own_maps == (0, 1)
    for case in study.cases:
        truth, outside = phantom(case.case)[1], shell(phantom(case.case)[1])
        rim = int((truth == RIM).sum())
        plain = 2 * rim / (2 * rim + outside.sum()) if case.fold == 0 else 1.0
        assert case.plain_dice == pytest.approx({"rim": plain, "core": 1.0})
        assert case.dice == {"rim": 1.0, "core": 1.0}
        assert case.scores["expected_dice"] == pytest.approx(1, abs=0.01)


def test_no_case_is_judged_by_a_map_that_it_had_a_part_in(two_halves: Project) -> None:
    """Cases contradict each other: the last one is right where the others are wrong, and a map fitted to it as well would trust it more."""

    def one_is_right(_: int, case: str) -> Evidence:
        truth = phantom(case)[1]
        seen = truth if case == LABELLED[-1] else np.where(shell(truth), RIM, truth)
        sure: Evidence = evidence_of(seen, doubt=0.1)
        return replace(sure, mean=np.where(seen == RIM, evidence_of(seen, doubt=0.35).mean, sure.mean))

    run = begin_with(two_halves, one_is_right)
    study = study_held_out(run)
    assert study is not None
    assert study.maps is not None
    assert study.own_maps == ()
    assert study.calibration.left_out is not None
    changes = {}
    for case in study.cases:
        stored, nonzero = run.held_out_stores()[case.fold].read(case.case), np.ones(phantom(case.case)[1].shape, dtype=bool)
        without, within = (
            scores_of(evidence_under(found, stored), nonzero, is_calibrated=True, written=None)["expected_dice"].value
            for found in (study.calibration.left_out.maps[case.case], study.maps[case.fold])
        )
        assert without is not None
        assert within is not None
        assert case.scores["expected_dice"] == pytest.approx(without)
        changes[case.case] = within - without
    assert changes[LABELLED[-1]] > 0.02
    assert max(changes, key=lambda name: abs(changes[name])) == LABELLED[-1]


# ---- thresholds on the calibrated scale


def overconfident(case: str) -> Evidence:
    """Of what is called a rim with 0.9, 60 % is one; of what is called so with 0.98, 85 %. The rest is right."""
    truth = phantom(case)[1]
    rim, outside = (np.flatnonzero(voxels) for voxels in (truth == RIM, shell(truth)))
    less, more = rim[::2], rim[1::2]
    wrong = outside[: len(less) * 2 // 3], outside[-(len(more) * 15 // 85) :]
    seen, doubt = truth.copy(), np.full(truth.shape, 1e-4)
    for right, mistaken, doubted in ((less, wrong[0], 0.1), (more, wrong[1], 0.02)):
        seen.flat[mistaken] = RIM
        doubt.flat[[*right, *mistaken]] = doubted
    sure: Evidence = evidence_of(seen, doubt=0.0)
    return replace(sure, mean=np.where(sure.mean == 1, 1 - doubt, doubt / 2).astype(np.float32))


@pytest.mark.parametrize(("precision", "tau"), [(0.5, 0.6), (0.8, 0.85), (0.95, 0.99)])
def test_threshold_is_the_calibrated_confidence_that_is_precise_enough(two_halves: Project, precision: float, tau: float) -> None:
    run = begin_with(two_halves, lambda fold, case: overconfident(case), student__precision=precision)
    study = study_held_out(run)
    assert study is not None
    assert study.tau is not None
    # calibrated, a level is as confident as it is right; the raw means, 0.9 and 0.98, would be thresholds far too high
    assert study.tau[RIM] == pytest.approx(tau, abs=0.03)
