"""A case under a calibration map and without one."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_ssl.confidence.calibration_map import CalibrationMap, LogitLine
from nnunet_ssl.confidence.case_under_map import evidence_under, scores_of
from nnunet_ssl.confidence.evidence import Evidence

MEAN = np.array([[0.9, 0.2], [0.1, 0.8]], np.float32).reshape(2, 2, 1, 1)
EVIDENCE = Evidence(mean=MEAN, variance=np.full_like(MEAN, 0.01), votes=MEAN, num_samples=8, has_regions=False)
HALVED = CalibrationMap(kind="temperature", has_regions=False, heads=(LogitLine(slope=0.5),) * 2)
"""Odds of 9 become 3, odds of 4 become 2."""
EVERYWHERE = np.ones((2, 1, 1), dtype=bool)


def test_without_a_map_nothing_changes() -> None:
    assert evidence_under(None, EVIDENCE) is EVIDENCE
    scores = scores_of(EVIDENCE, EVERYWHERE, is_calibrated=False)
    assert "expected_dice" not in scores
    assert scores["foreground"].value == pytest.approx(0.8 * 0.96)  # one voxel, M1 (1 - 4 v)


def test_under_a_map_probabilities_are_calibrated() -> None:
    found = evidence_under(HALVED, EVIDENCE)
    np.testing.assert_allclose(found.mean.reshape(2, 2), [[0.75, 1 / 3], [0.25, 2 / 3]], atol=1e-6)
    scores = scores_of(found, EVERYWHERE, is_calibrated=True)
    assert scores["foreground"].value == pytest.approx(2 / 3)
    assert scores["expected_dice"].value == pytest.approx(2 * (2 / 3) / (1 + 0.25 + 2 / 3))
    # votes are what they were
    assert scores["pairwise_dice"] == scores_of(EVIDENCE, EVERYWHERE, is_calibrated=False)["pairwise_dice"]


def test_what_the_label_map_contradicts_is_unsure() -> None:
    mean = np.array([[0.4, 0.8], [0.7, 0.1]], np.float32).reshape(2, 2, 1, 1)
    evidence = Evidence(mean=mean, variance=mean * 0, votes=mean, num_samples=8, has_regions=True)
    written = np.array([[True, True], [True, False]]).reshape(2, 2, 1, 1)
    identity = CalibrationMap(kind="identity", has_regions=True, heads=(LogitLine(),) * 2)
    for used in (None, identity):
        under, is_calibrated = evidence_under(used, evidence), used is not None
        plain, told = (
            scores_of(under, EVERYWHERE, is_calibrated=is_calibrated, written=regions)["mean"].value for regions in (None, written)
        )
        assert plain == pytest.approx((0.6 + 0.8 + 0.7 + 0.9) / 4, abs=1e-5)
        assert told == pytest.approx((0.4 + 0.8 + 0.7 + 0.9) / 4, abs=1e-5)
