"""Thresholds, the gate of unlearning and blind classes: by hand, and with planted errors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student_t
from simulated_teacher import simulated_cases

from nnunet_ssl.confidence.calibration import calibrated, fit_calibration
from nnunet_ssl.confidence.evidence import Evidence
from nnunet_ssl.confidence.foreground_band import foreground_band
from nnunet_ssl.confidence.held_out import count_held_out
from nnunet_ssl.confidence.prediction_counts import PredictionCounts, count_predictions
from nnunet_ssl.confidence.thresholds import blind_classes, class_thresholds, gate_at, unlearning_gate
from nnunet_ssl.errors import ConfigError, StateError

Cells = dict[tuple[int, int], tuple[float, float]]
"""(voxels, right ones) by class and bin; bins are 0.02 wide."""


def of_cells(cells: Cells, *, num_heads: int = 3, voxels: int | None = None) -> PredictionCounts:
    totals, correct = np.zeros((num_heads, 50)), np.zeros((num_heads, 50))
    for cell, (n, right) in cells.items():
        totals[cell], correct[cell] = n, right
    return PredictionCounts(totals=totals, correct=correct, voxels=int(totals.sum()) if voxels is None else voxels)


def test_the_threshold_is_where_labels_become_right_often_enough() -> None:
    case = of_cells({(1, 30): (100, 60), (1, 35): (100, 79), (1, 40): (100, 81), (1, 49): (1000, 999), (0, 45): (10, 9)})
    # class 0 reaches 0.8 at its only bin; class 1 at bin 40, although voxels above bin 35 are right more often than 0.9 on average
    assert class_thresholds({"a": case}, precision=0.8) == (0.9, 0.8, 1.0)
    assert class_thresholds({"a": case}, precision=0.9) == (0.9, 0.98, 1.0)


def test_a_lucky_bin_is_evened_out_by_its_neighbours() -> None:
    case = of_cells({(1, 26): (1, 1), (1, 30): (100, 60), (1, 40): (100, 90)})
    assert class_thresholds({"a": case}, precision=0.85, bounds=(0, 1))[1] == 0.8


def test_thresholds_keep_to_their_bounds() -> None:
    case = of_cells({(1, 20): (100, 99), (2, 49): (100, 20)})
    assert class_thresholds({"a": case}, precision=0.8) == (1.0, 0.5, 0.99)
    assert class_thresholds({"a": case}, precision=0.8, bounds=(0.3, 0.95)) == (1.0, 0.4, 0.95)


def test_a_large_case_does_not_outvote_a_small_one() -> None:
    small, large = of_cells({(1, 40): (10, 10)}), of_cells({(1, 40): (1000, 500)})
    # 3/4 on average over cases, 0.505 over voxels
    assert class_thresholds({"a": small, "b": large}, precision=0.75)[1] == 0.8
    assert class_thresholds({"a": small, "b": large}, precision=0.76)[1] == 0.99


def test_thresholds_of_a_calibrated_teacher_are_the_wanted_precision() -> None:
    cases = simulated_cases(lambda logits: 2.5 * logits, num_cases=8, seed=1, num_structures=1)
    calibration = fit_calibration({name: case.counts() for name, case in cases.items()}, has_regions=False).map
    assert calibration is not None
    raw, put_right = {}, {}
    for name, case in cases.items():
        band, valid = foreground_band(case.evidence.foreground()), np.ones(case.truth.shape, dtype=bool)
        raw[name] = count_predictions(case.evidence.mean, case.truth, valid, band, has_regions=False)
        put_right[name] = count_predictions(calibrated(case.evidence, calibration), case.truth, valid, band, has_regions=False)
    np.testing.assert_allclose(class_thresholds(put_right, precision=0.8), 0.8, atol=0.04)
    # the overconfident teacher says 0.96 where it is right with 0.8: odds of 4 to the power of 2.5
    np.testing.assert_allclose(class_thresholds(raw, precision=0.8), 0.97, atol=0.02)


@settings(max_examples=50)
@given(data=st.data(), low=st.floats(0.05, 0.95), high=st.floats(0.05, 0.95))
def test_more_precision_never_asks_for_less_confidence(data: st.DataObject, low: float, high: float) -> None:
    cells: Cells = {}
    for b in data.draw(st.sets(st.integers(0, 49), min_size=1, max_size=12)):
        n = data.draw(st.integers(1, 50))
        cells[1, b] = (n, data.draw(st.integers(0, n)))
    cases = {"a": of_cells(cells)}
    low, high = sorted((low, high))
    assert class_thresholds(cases, precision=low)[1] <= class_thresholds(cases, precision=high)[1]


def test_settings_out_of_range_are_refused() -> None:
    case = {"a": of_cells({(1, 40): (1, 1)})}
    with pytest.raises(ConfigError, match="precision"):
        class_thresholds(case, precision=0)
    with pytest.raises(ConfigError, match="bounds"):
        class_thresholds(case, precision=0.8, bounds=(0.9, 0.5))
    with pytest.raises(ConfigError, match="divisor of 50"):
        unlearning_gate(case, num_bins=20)


def planted_case(rng: np.random.Generator, share_of_wrong: float) -> PredictionCounts:
    """Class 1 predicted at a confidence of 0.65, wrong with a probability; class 2 at 0.85 and mostly right."""
    q = np.zeros((3, 16, 16), dtype=np.float32)
    q[:, :8] = np.array([0.25, 0.65, 0.10])[:, None, None]
    q[:, 8:] = np.array([0.05, 0.10, 0.85])[:, None, None]
    truth = np.full((16, 16), 2)
    truth[:8] = np.where(rng.random((8, 16)) < share_of_wrong, 0, 1)
    truth[8:][rng.random((8, 16)) < 0.1] = 1
    everywhere = np.ones((16, 16), dtype=bool)
    return count_predictions(q, truth, everywhere, everywhere, has_regions=False)


def planted_cases(share_of_wrong: float, num_cases: int) -> dict[str, PredictionCounts]:
    rng = np.random.default_rng(0)
    return {f"case{i}": planted_case(rng, share_of_wrong) for i in range(num_cases)}


def test_planted_wrong_labels_open_the_gate_and_right_ones_do_not() -> None:
    wrong = unlearning_gate(planted_cases(0.8, 6))
    expected = np.zeros((3, 10), dtype=bool)
    expected[1, 6] = True
    np.testing.assert_array_equal(wrong, expected)
    assert not unlearning_gate(planted_cases(0.2, 6)).any()
    assert not unlearning_gate(planted_cases(0.5, 6)).any()


def test_one_case_opens_nothing() -> None:
    assert not unlearning_gate(planted_cases(1.0, 1)).any()
    assert unlearning_gate(planted_cases(1.0, 2))[1, 6]
    alone = {**planted_cases(0.0, 5), "odd": of_cells({(2, 32): (1000, 0)})}
    assert not unlearning_gate(alone)[2].any()


def test_cases_that_disagree_keep_the_gate_shut() -> None:
    shares = np.array([0.55, 0.95, 0.65])
    cases = {f"case{i}": of_cells({(1, 31): (1000, 1000 - 1000 * s)}) for i, s in enumerate(shares)}
    lower = shares.mean() - student_t.ppf(0.95, 2) * shares.std(ddof=1) / np.sqrt(3)
    assert lower == pytest.approx(0.366, abs=0.001)
    assert not unlearning_gate(cases)[1, 6]
    # the same mean with the cases closer together: 0.717 - 2.92 * 0.0289 / sqrt(3) = 0.668
    closer = {f"case{i}": of_cells({(1, 31): (1000, 1000 - s)}) for i, s in enumerate([700, 700, 750])}
    assert unlearning_gate(closer)[1, 6]


@pytest.mark.parametrize(("voxels", "is_open"), [(1, False), (5, False), (20, True)])
def test_agreement_of_a_few_voxels_is_chance(voxels: int, is_open: bool) -> None:
    cases = {name: of_cells({(1, 31): (voxels, 0)}) for name in "ab"}
    assert unlearning_gate(cases)[1, 6] == is_open


def test_the_gate_looks_at_class_and_confidence() -> None:
    gate = np.zeros((3, 10), dtype=bool)
    gate[1, 6] = gate[2, 9] = True
    predicted = np.array([1, 1, 1, 0, 2, 2, -1], dtype=np.int16)
    confidence = np.array([[0.6, 0.69, 0.7, 0.65, 1.0, 0.65, 0.95]], dtype=np.float32)
    assert gate_at(gate, predicted, confidence).tolist() == [[True, True, False, False, True, False, False]]


def test_the_gate_of_regions_looks_at_each() -> None:
    gate = np.zeros((2, 10), dtype=bool)
    gate[1, 5] = True
    confidence = np.array([[0.55, 0.55], [0.55, 0.95]], dtype=np.float32)
    predicted = np.array([[True, False], [False, True]])
    assert gate_at(gate, predicted, confidence).tolist() == [[False, False], [True, False]]


def test_a_confidence_of_another_shape_is_refused() -> None:
    gate, confidence = np.zeros((2, 10), dtype=bool), np.zeros((1, 4), dtype=np.float32)
    with pytest.raises(StateError, match="confidence has shape"):
        gate_at(gate, np.zeros(5, dtype=np.int16), confidence)
    with pytest.raises(StateError, match="gate 7 bins"):
        gate_at(gate[:, :7], np.zeros(4, dtype=np.int16), confidence)


def blind_case(*, has_regions: bool) -> tuple[Evidence, np.ndarray]:
    """Heads 1 to 3 are true at 20 voxels each; 1 is found at 2 of them, 2 at 1, 3 at none."""
    mean = np.zeros((5, 100))
    truth = np.zeros(100, dtype=int)
    for k, found in ((1, 2), (2, 1), (3, 0)):
        truth[20 * k : 20 * k + 20] = k
        mean[k, 20 * k : 20 * k + found] = 0.9
    mean[0] = 1 - mean.sum(axis=0)
    regions = truth == np.arange(5)[:, None]
    evidence = Evidence(mean=mean, variance=mean * 0, votes=mean, num_samples=2, has_regions=has_regions)
    return evidence, regions if has_regions else truth


@pytest.mark.parametrize("has_regions", [False, True])
def test_classes_that_are_hardly_ever_found(has_regions: bool) -> None:
    evidence, truth = blind_case(has_regions=has_regions)
    counts = count_held_out(evidence, truth, np.ones(100, dtype=bool))
    # recalls of 0.1, 0.05 and 0; class 4 is in no case
    assert blind_classes({"a": counts, "b": counts}, has_regions=has_regions) == (2, 3)
    assert blind_classes({"a": counts}, has_regions=has_regions, least_recall=0.2) == (1, 2, 3)


def test_recall_is_pooled_over_the_cases_that_contain_the_class() -> None:
    evidence, truth = blind_case(has_regions=False)
    everywhere = np.ones(100, dtype=bool)
    missed = count_held_out(evidence, truth, everywhere)
    mean = (np.arange(5)[:, None] == truth).astype(float)
    found = count_held_out(Evidence(mean=mean, variance=mean * 0, votes=mean, num_samples=2, has_regions=False), truth, everywhere)
    assert blind_classes({"a": missed, "b": found}, has_regions=False) == ()
    assert blind_classes({}, has_regions=False) == ()


def test_what_a_teacher_was_never_taught_says_nothing() -> None:
    evidence, truth = blind_case(has_regions=False)
    counts = count_held_out(evidence, truth, np.ones(truth.shape, bool))
    cases = {"a": counts, "b": counts}
    assert blind_classes(cases, has_regions=False) == (2, 3)
    assert blind_classes(cases, has_regions=False, untaught={"a": [2]}) == (2, 3)  # the teacher of "b" was
    assert blind_classes(cases, has_regions=False, untaught={"a": [2], "b": [2]}) == (3,)


def test_background_is_never_called_blind() -> None:
    mean = np.array([[0.1] * 4, [0.9] * 4])
    evidence = Evidence(mean=mean, variance=mean * 0, votes=mean, num_samples=2, has_regions=False)
    counts = count_held_out(evidence, np.zeros(4, dtype=int), np.ones(4, dtype=bool))
    assert blind_classes({"a": counts}, has_regions=False) == ()
    assert blind_classes({"a": counts}, has_regions=True) == (0,)
