"""Calibration error and Brier score: by hand, and from histograms against the voxels themselves."""

import numpy as np
import pytest
from simulated_teacher import SimulatedCase, simulated_cases

from nnunet_ssl.confidence.calibration_map import CalibrationMap, LogitLine
from nnunet_ssl.confidence.foreground_band import foreground_band
from nnunet_ssl.confidence.held_out import LOGIT_LIMIT, NUM_BINS, HeldOutCounts, case_shares
from nnunet_ssl.confidence.reliability import brier_score, curves, expected_calibration_error
from nnunet_ssl.errors import StateError


def region_counts(totals: dict[float, float], positives: dict[float, float]) -> HeldOutCounts:
    """A case with one region, from voxels by probability."""
    arrays = {name: np.zeros((1, NUM_BINS)) for name in ("totals", "positives")}
    for name, counts in (("totals", totals), ("positives", positives)):
        for p, n in counts.items():
            arrays[name][0, int((np.log(p / (1 - p)) + LOGIT_LIMIT) / (2 * LOGIT_LIMIT) * NUM_BINS)] = n
    return HeldOutCounts(**arrays, true_voxels=[0], predicted_voxels=[0], overlap=[0])


def test_calibration_error_by_hand() -> None:
    case = region_counts({0.31: 10, 0.82: 30}, {0.31: 3, 0.82: 18})
    # |0.31 - 0.3| for a quarter, |0.82 - 0.6| for the rest
    error = expected_calibration_error({"a": case}, None, has_regions=True)
    assert error == pytest.approx(0.25 * 0.01 + 0.75 * 0.22, abs=0.0025)


def test_large_cases_count_no_more_than_small_ones() -> None:
    right, wrong = region_counts({0.82: 50}, {0.82: 41}), region_counts({0.31: 5000}, {0.31: 5000})
    error = expected_calibration_error({"a": right, "b": wrong}, None, has_regions=True)
    assert error == pytest.approx(0.5 * 0.69, abs=0.0025)


def test_a_map_is_measured_in_place_of_the_probabilities() -> None:
    case = region_counts({0.8: 30}, {0.8: 20})
    halved = CalibrationMap(kind="temperature", has_regions=True, heads=(LogitLine(slope=0.5),))
    assert expected_calibration_error({"a": case}, None, has_regions=True) == pytest.approx(0.8 - 2 / 3, abs=0.0025)
    assert expected_calibration_error({"a": case}, halved, has_regions=True) == pytest.approx(0, abs=0.0025)


def test_brier_score_by_hand() -> None:
    shares = case_shares({"a": region_counts({0.8: 30}, {0.8: 20})})
    score = brier_score(shares.totals[0], shares.positives[0], curves(None, 1))
    assert score == pytest.approx(2 / 3 * 0.04 + 1 / 3 * 0.64, abs=0.005)


def voxels_of(case: SimulatedCase) -> tuple[np.ndarray, np.ndarray]:
    """One-vs-rest probabilities and truths of all heads in the band, (H, n)."""
    band = foreground_band(case.evidence.foreground())
    return case.evidence.mean[:, band].astype(np.float64), case.truth[band] == np.arange(len(case.evidence.mean))[:, None]


def test_histograms_lose_no_more_than_they_say() -> None:
    cases = simulated_cases(lambda logits: 2.5 * logits, num_cases=2, seed=0)
    squares, gaps = [], np.zeros((2, 20))
    for case in cases.values():
        p, true = voxels_of(case)
        squares.append(np.square(p - true).mean())
        for k in (1, 2):
            bins = np.minimum((p[k] * 20).astype(int), 19)
            gaps[k - 1] += np.bincount(bins, weights=p[k] - true[k], minlength=20) / p.shape[1] / len(cases)
    counts = {name: case.counts() for name, case in cases.items()}
    assert expected_calibration_error(counts, None, has_regions=False) == pytest.approx(np.abs(gaps).sum(axis=1).mean(), abs=0.0025)
    shares = case_shares(counts)
    scores = [brier_score(t, p, curves(None, 3)) for t, p in zip(shares.totals, shares.positives, strict=True)]
    np.testing.assert_allclose(scores, squares, atol=0.005)


def test_nothing_to_measure_is_no_error_of_zero() -> None:
    assert expected_calibration_error({}, None, has_regions=False) is None
    assert expected_calibration_error({"a": region_counts({}, {})}, None, has_regions=True) is None


def test_maps_of_other_heads_are_refused() -> None:
    two = CalibrationMap(kind="temperature", has_regions=True, heads=(LogitLine(), LogitLine()))
    with pytest.raises(StateError, match="1 heads, the calibration 2"):
        expected_calibration_error({"a": region_counts({0.8: 3}, {0.8: 2})}, two, has_regions=True)
