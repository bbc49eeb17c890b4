"""Calibration on simulated teachers whose true probabilities are known: what is chosen, what it gains, and where it ends."""

import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_teacher import Distortion, SimulatedCase, simulated_cases

from nnunet_ssl.confidence.calibration import calibrated, fit_calibration, standard_error
from nnunet_ssl.confidence.calibration_fit import STEEPEST, fit_map
from nnunet_ssl.confidence.calibration_map import CalibrationMap, Kind, Knots, LogitLine
from nnunet_ssl.confidence.evidence import Evidence
from nnunet_ssl.confidence.foreground_band import foreground_band
from nnunet_ssl.confidence.held_out import HeldOutCounts, case_shares, count_held_out
from nnunet_ssl.confidence.reliability import expected_calibration_error
from nnunet_ssl.errors import StateError


def overconfident(logits: np.ndarray) -> np.ndarray:
    return 2.5 * logits


def other_scanner(bias: float, *, has_regions: bool = False) -> Distortion:
    """Less overconfident, and inclined towards foreground by a bias of its logits."""

    def distort(logits: np.ndarray) -> np.ndarray:
        biases = np.full(len(logits), bias)
        if not has_regions:
            biases[0] = 0
        return 1.8 * logits + biases.reshape(-1, 1, 1, 1)

    return distort


def saturating(logits: np.ndarray) -> np.ndarray:
    """No straight line in the logit turns this back."""
    return np.stack([0 * logits[0], 5 * np.tanh(logits[1])])


def counts_of(cases: dict[str, SimulatedCase]) -> dict[str, HeldOutCounts]:
    return {name: case.counts() for name, case in cases.items()}


def label_error(cases: dict[str, SimulatedCase], calibration: CalibrationMap | None) -> float:
    """Expected calibration error of the confidence of the label, after normalisation, from the voxels of all bands."""
    confidence, gap = [], []
    for case in cases.values():
        band = foreground_band(case.evidence.foreground())
        q = (case.evidence.mean if calibration is None else calibrated(case.evidence, calibration))[:, band]
        confidence.append(q.max(axis=0))
        gap.append((q.max(axis=0) - (q.argmax(axis=0) == case.truth[band])) / band.sum() / len(cases))
    bins = np.minimum((np.concatenate(confidence) * 20).astype(int), 19)
    return float(np.abs(np.bincount(bins, weights=np.concatenate(gap))).sum())


@pytest.fixture(scope="module")
def three_classes() -> dict[str, SimulatedCase]:
    return simulated_cases(overconfident, num_cases=8, seed=1)


@pytest.fixture(scope="module")
def two_classes() -> dict[str, SimulatedCase]:
    return simulated_cases(overconfident, num_cases=8, seed=1, num_structures=1)


def test_an_overconfident_teacher_is_put_right(three_classes: dict[str, SimulatedCase]) -> None:
    found = fit_calibration(counts_of(three_classes), has_regions=False)
    # one-vs-rest, each case by a map of the others
    assert found.ece_before == pytest.approx(0.084, abs=0.001)
    assert found.ece_after == pytest.approx(0.0045, abs=0.001)
    # confidence of the label, after normalisation
    assert label_error(three_classes, None) == pytest.approx(0.156, abs=0.001)
    assert label_error(three_classes, found.map) == pytest.approx(0.010, abs=0.001)
    assert found.num_cases == 8


def test_probabilities_return_to_the_true_ones(two_classes: dict[str, SimulatedCase]) -> None:
    found = fit_calibration(counts_of(two_classes), has_regions=False)
    assert found.map is not None
    assert found.map.kind == "temperature"
    head = found.map.heads[1]
    assert isinstance(head, LogitLine)
    assert 1 / head.slope == pytest.approx(2.5, rel=0.02)
    case = two_classes["case00"]
    band = foreground_band(case.evidence.foreground())
    assert np.abs(case.evidence.mean - case.probabilities)[:, band].max() > 0.15
    assert np.abs(calibrated(case.evidence, found.map) - case.probabilities)[:, band].max() < 0.005


def test_regions_are_put_right_one_by_one() -> None:
    cases = counts_of(simulated_cases(overconfident, num_cases=8, seed=1, has_regions=True))
    found = fit_calibration(cases, has_regions=True)
    assert found.map is not None
    assert found.map.has_regions
    assert found.ece_before == pytest.approx(0.087, abs=0.001)
    assert found.ece_after == pytest.approx(0.0067, abs=0.001)


@pytest.mark.parametrize(("bias", "before", "after"), [(-0.5, 0.133, 0.038), (0.0, 0.106, 0.066), (0.25, 0.095, 0.076)])
def test_calibration_still_helps_on_a_scanner_that_distorts_otherwise(
    three_classes: dict[str, SimulatedCase], bias: float, before: float, after: float
) -> None:
    calibration = fit_calibration(counts_of(three_classes), has_regions=False).map
    shifted = simulated_cases(other_scanner(bias), num_cases=8, seed=2)
    assert label_error(shifted, None) == pytest.approx(before, abs=0.001)
    assert label_error(shifted, calibration) == pytest.approx(after, abs=0.001)


def test_a_scanner_that_invents_foreground_undoes_calibration(three_classes: dict[str, SimulatedCase]) -> None:
    # the limit of what held-out cases of one scanner can promise: from a bias of 0.5 on it is no gain, beyond that a loss
    calibration = fit_calibration(counts_of(three_classes), has_regions=False).map
    shifted = simulated_cases(other_scanner(0.75), num_cases=8, seed=2)
    assert label_error(shifted, None) == pytest.approx(0.081, abs=0.001)
    assert label_error(shifted, calibration) == pytest.approx(0.090, abs=0.001)


@pytest.mark.parametrize(
    ("has_regions", "bias", "before", "after"),
    [(False, -0.5, 0.116, 0.043), (False, 0.25, 0.079, 0.069), (True, -0.5, 0.122, 0.046), (True, 0.25, 0.084, 0.065)],
)
def test_so_it_does_for_a_single_structure(has_regions: bool, bias: float, before: float, after: float) -> None:
    first = counts_of(simulated_cases(overconfident, num_cases=8, seed=1, has_regions=has_regions, num_structures=1))
    distort = other_scanner(bias, has_regions=has_regions)
    shifted = counts_of(simulated_cases(distort, num_cases=8, seed=2, has_regions=has_regions, num_structures=1))
    calibration = fit_calibration(first, has_regions=has_regions).map
    assert expected_calibration_error(shifted, None, has_regions=has_regions) == pytest.approx(before, abs=0.001)
    assert expected_calibration_error(shifted, calibration, has_regions=has_regions) == pytest.approx(after, abs=0.001)


def test_a_bias_asks_for_an_intercept() -> None:
    cases = counts_of(simulated_cases(other_scanner(1.0), num_cases=6, seed=3, num_structures=1))
    found = fit_calibration(cases, has_regions=False)
    assert found.map is not None
    assert found.map.kind == "logistic"
    foreground = found.map.heads[1]
    assert isinstance(foreground, LogitLine)
    # logit = 1.8 true + 1, so true = (logit - 1) / 1.8
    assert foreground.slope == pytest.approx(1 / 1.8, rel=0.05)
    assert foreground.intercept == pytest.approx(-1 / 1.8, rel=0.05)
    gain = found.brier["temperature"].mean - found.brier["logistic"].mean
    assert gain > found.brier["temperature"].standard_error > 0
    assert found.brier["logistic"].standard_error == 0


@pytest.mark.parametrize("factors", [(0.6, 0.6, 0.6, 3.0), (1.5, 1.5, 0.7, 0.7), (1.0, 1.0, 1.0, 1.0)])
def test_confidence_is_left_alone_where_cases_contradict_each_other(factors: tuple[float, ...]) -> None:
    """Every case asks for a temperature of its own, or none for any: what the others teach does not help the one left out."""
    cases = {}
    for number, factor in enumerate(factors):
        (of_one,) = simulated_cases(lambda logits, factor=factor: factor * logits, num_cases=1, seed=number).values()  # type: ignore[misc]
        cases[f"case{number}"] = of_one
    found = fit_calibration(counts_of(cases), has_regions=False)
    assert found.map is not None
    assert found.map.kind == "identity"
    assert found.reason.startswith("identity map (a more flexible one is taken only where it is better by a standard error); ")
    for kind in ("temperature", "logistic"):
        gain = found.brier["identity"].mean - found.brier[kind].mean
        assert gain <= found.brier[kind].standard_error
    assert found.ece_after == found.ece_before
    evidence = cases["case0"].evidence
    np.testing.assert_allclose(calibrated(evidence, found.map), evidence.mean, atol=1e-5)


def test_a_gain_within_one_standard_error_is_none() -> None:
    """Three overconfident cases and one that is not: a temperature helps in the mean, and might as well not."""
    cases = {}
    for number, factor in enumerate((1.5, 1.5, 1.5, 1.0)):
        (of_one,) = simulated_cases(lambda logits, factor=factor: factor * logits, num_cases=1, seed=number).values()  # type: ignore[misc]
        cases[f"case{number}"] = of_one.counts()
    found = fit_calibration(cases, has_regions=False)
    assert found.map is not None
    assert found.map.kind == "identity"
    gain = found.brier["identity"].mean - found.brier["temperature"].mean
    assert 0 < gain < found.brier["temperature"].standard_error


def test_standard_error_of_a_mean() -> None:
    # variance (4 + 0 + 4) / 2, over three
    assert standard_error(np.array([1.0, 3.0, 5.0])) == pytest.approx(math.sqrt(4 / 3))


def test_isotonic_needs_ten_cases_and_a_reason() -> None:
    cases = counts_of(simulated_cases(saturating, num_cases=12, seed=4, num_structures=1))
    found = fit_calibration(cases, has_regions=False)
    assert found.map is not None
    assert found.map.kind == "isotonic"
    assert all(isinstance(head, Knots) for head in found.map.heads)
    # an isotonic curve has no error at all on the cases that it was fitted to
    assert found.ece_after == pytest.approx(0.0055, abs=0.001)
    for number, is_tried in ((9, False), (10, True)):
        fewer = fit_calibration(dict(list(cases.items())[:number]), has_regions=False)
        assert ("isotonic" in fewer.brier) is is_tried
    straight = counts_of(simulated_cases(overconfident, num_cases=12, seed=4, num_structures=1))
    plain = fit_calibration(straight, has_regions=False)
    assert plain.map is not None
    assert plain.map.kind == "temperature"
    assert set(plain.brier) == {"identity", "temperature", "logistic", "isotonic"}
    assert "temperature map" in plain.reason


def test_scores_are_of_cases_that_the_map_has_not_seen(two_classes: dict[str, SimulatedCase]) -> None:
    cases = dict(list(two_classes.items())[:4])
    expected = []
    for name, case in cases.items():
        others = case_shares(counts_of({other: c for other, c in cases.items() if other != name}))
        q = fit_map("temperature", others, np.ones(3), has_regions=False).one_vs_rest(case.evidence.mean)
        band = foreground_band(case.evidence.foreground())
        expected.append(np.square(q[1] - (case.truth == 1))[band].mean())
    brier = fit_calibration(counts_of(cases), has_regions=False).brier["temperature"]
    assert brier.mean == pytest.approx(np.mean(expected), abs=5e-6)  # the maps of all four cases would be 2e-5 better


def test_fewer_than_four_cases_calibrate_nothing(two_classes: dict[str, SimulatedCase]) -> None:
    cases = counts_of(two_classes)
    empty = HeldOutCounts(**{name: 0 * array for name, array in asdict(cases["case00"]).items()})
    found = fit_calibration({**dict(list(cases.items())[:3]), "empty": empty}, has_regions=False)
    assert found.map is None
    assert found.num_cases == 3
    assert "3 held-out cases" in found.reason
    assert found.brier == {}
    assert found.ece_before is found.ece_after is None
    assert fit_calibration({}, has_regions=True).map is None


def without_class(case: SimulatedCase, label: int) -> HeldOutCounts:
    truth = np.where(case.truth == label, 0, case.truth)
    return count_held_out(case.evidence, truth, np.ones(truth.shape, dtype=bool))


@pytest.mark.parametrize("kind", ["logistic", "isotonic"])
def test_a_class_that_is_never_true_keeps_its_probabilities(three_classes: dict[str, SimulatedCase], kind: Kind) -> None:
    shares = case_shares({name: without_class(case, 2) for name, case in three_classes.items()})
    found = fit_map(kind, shares, np.ones(8), has_regions=False)
    assert found.heads[2] == LogitLine(slope=1, intercept=0)
    assert found.heads[1] != found.heads[2]


def test_a_class_that_is_never_true_is_named(three_classes: dict[str, SimulatedCase]) -> None:
    found = fit_calibration({name: without_class(case, 2) for name, case in three_classes.items()}, has_regions=False)
    assert found.unfitted_heads == (2,)
    assert "heads 2" in found.reason


def test_a_common_temperature_leaves_out_what_says_nothing(three_classes: dict[str, SimulatedCase]) -> None:
    nothing_true = case_shares({name: without_class(without(case), 2) for name, case in three_classes.items()})
    identity = fit_map("temperature", nothing_true, np.ones(8), has_regions=False)
    assert identity.heads == (LogitLine(),) * 3


def without(case: SimulatedCase) -> SimulatedCase:
    """The case without class 1."""
    return case._replace(truth=np.where(case.truth == 1, 0, case.truth))


def test_heads_that_separate_perfectly_get_finite_slopes() -> None:
    mean = np.array([[0.9, 0.8, 0.2, 0.1], [0.1, 0.2, 0.8, 0.9]])
    evidence = Evidence(mean=mean, variance=mean * 0, votes=mean, num_samples=2, has_regions=False)
    counts = count_held_out(evidence, np.array([0, 0, 1, 1]), np.ones(4, dtype=bool))
    found = fit_calibration({f"case{i}": counts for i in range(10)}, has_regions=False)
    assert found.map is not None
    assert all(isinstance(head, LogitLine) and head.slope == pytest.approx(STEEPEST) for head in found.map.heads)
    isotonic = fit_map("isotonic", case_shares({"a": counts}), np.ones(1), has_regions=False)
    # four voxels, so no probability below 1/8
    np.testing.assert_allclose(isotonic.one_vs_rest(mean.astype(np.float32))[1], [0.125, 0.125, 0.875, 0.875], atol=0.002)


@settings(max_examples=10, deadline=None)
@given(factors=st.lists(st.integers(1, 1000), min_size=8, max_size=8))
def test_the_size_of_a_case_does_not_matter(two_classes: dict[str, SimulatedCase], factors: list[int]) -> None:
    cases = counts_of(two_classes)
    scaled = {
        name: HeldOutCounts(**{key: factor * array for key, array in asdict(case).items()})
        for (name, case), factor in zip(cases.items(), factors, strict=True)
    }
    weights = np.ones(8)
    for one, other in zip(
        fit_map("logistic", case_shares(cases), weights, has_regions=False).heads,
        fit_map("logistic", case_shares(scaled), weights, has_regions=False).heads,
        strict=True,
    ):
        assert isinstance(one, LogitLine)
        assert isinstance(other, LogitLine)
        assert (one.slope, one.intercept) == pytest.approx((other.slope, other.intercept), abs=1e-5)


def test_the_order_of_cases_does_not_matter(two_classes: dict[str, SimulatedCase]) -> None:
    cases = counts_of(two_classes)
    assert fit_calibration(cases, has_regions=False) == fit_calibration(dict(reversed(cases.items())), has_regions=False)


def test_nothing_changes_outside_the_band() -> None:
    p = np.full(12, 0.3, dtype=np.float32)
    p[2] = 0.8
    mean = np.stack([1 - p, p])
    evidence = Evidence(mean=mean, variance=mean * 0, votes=mean, num_samples=2, has_regions=False)
    halved = CalibrationMap(kind="temperature", has_regions=False, heads=(LogitLine(slope=0.5),) * 2)
    q = calibrated(evidence, halved)
    np.testing.assert_array_equal(q[:, 6:], evidence.mean[:, 6:])
    assert q[1, 2] == pytest.approx(2 / 3, abs=1e-6)
    assert (q[1, :6] > p[:6])[[0, 1, 3, 4, 5]].all()
    np.testing.assert_array_equal(evidence.mean, mean)


def test_maps_of_other_heads_are_refused(two_classes: dict[str, SimulatedCase]) -> None:
    regions = CalibrationMap(kind="temperature", has_regions=True, heads=(LogitLine(), LogitLine()))
    with pytest.raises(StateError, match="2 regions, the evidence has 2 classes"):
        calibrated(two_classes["case00"].evidence, regions)
