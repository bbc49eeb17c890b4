"""Held-out cases as histograms: which voxels count, in which bin, and with which weight."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from nnunet_ssl.confidence.evidence import Evidence
from nnunet_ssl.confidence.held_out import NUM_BINS, HeldOutCounts, bin_logits, case_shares, count_held_out
from nnunet_ssl.errors import StateError


def of_mean(mean: np.ndarray, *, has_regions: bool = False) -> Evidence:
    return Evidence(mean=mean, variance=mean * 0, votes=mean, num_samples=8, has_regions=has_regions)


def softmax_line() -> tuple[Evidence, np.ndarray, np.ndarray]:
    """Twelve voxels in a row, foreground predicted at the 6th, so that the band goes from the 3rd to the 9th."""
    p = np.array([0.4, 0.4, 0.3, 0.3, 0.3, 0.9, 0.2, 0.2, 0.2, 0.1, 0.1, 0.0])
    truth = np.array([1, 0, 0, 0, 1, 1, 1, -1, 0, 0, 1, 0])
    valid = np.arange(12) != 8
    return of_mean(np.stack([1 - p, p])), truth, valid


def bins_of(histogram: np.ndarray) -> dict[float, float]:
    """Voxels by probability, rounded, of the filled bins."""
    return {round(float(1 / (1 + np.exp(-bin_logits()[b]))), 1): float(histogram[b]) for b in np.flatnonzero(histogram)}


def test_only_labelled_voxels_of_the_band_are_in_the_histograms() -> None:
    counts = count_held_out(*softmax_line())
    # voxels 2 to 6; 7 has a negative label, 8 is not valid
    assert bins_of(counts.totals[1]) == {0.2: 1, 0.3: 3, 0.9: 1}
    assert bins_of(counts.positives[1]) == {0.2: 1, 0.3: 1, 0.9: 1}
    assert bins_of(counts.totals[0]) == {0.8: 1, 0.7: 3, 0.1: 1}
    assert bins_of(counts.positives[0]) == {0.7: 2}
    assert counts.band_voxels == 5


def test_dice_is_of_the_whole_labelled_image() -> None:
    counts = count_held_out(*softmax_line())
    assert counts.true_voxels.tolist() == [5, 5]
    assert counts.predicted_voxels.tolist() == [9, 1]
    assert counts.overlap.tolist() == [5, 1]
    np.testing.assert_allclose(counts.dice, [2 * 5 / 14, 2 * 1 / 6])


def test_dice_of_what_is_nowhere_is_not_a_number() -> None:
    mean = np.zeros((3, 4))
    mean[0] = 1
    dice = count_held_out(of_mean(mean), np.array([0, 0, 0, 1]), np.ones(4, dtype=bool)).dice
    np.testing.assert_allclose(dice, [6 / 7, 0, np.nan])


def test_regions_overlap_and_share_the_band() -> None:
    mean = np.full((2, 12), 0.2)
    mean[0, 0] = 0.9
    mean[1, 1] = 0.6
    truth = np.zeros((2, 12), dtype=bool)
    truth[:, :2] = True
    counts = count_held_out(of_mean(mean, has_regions=True), truth, np.ones(12, dtype=bool))
    # foreground at 0 and 1, so the band is 0 to 4 for both
    assert bins_of(counts.totals[0]) == {0.9: 1, 0.2: 4}
    assert bins_of(counts.positives[0]) == {0.9: 1, 0.2: 1}
    assert bins_of(counts.positives[1]) == {0.6: 1, 0.2: 1}
    np.testing.assert_allclose(counts.dice, [2 / 3, 2 / 3])


def test_regions_that_the_label_map_contradicts_count_as_written() -> None:
    """The core is found where the whole is not; laid over it, it brings the whole with it."""
    mean = np.array([[0.4, 0.4, 0.8], [0.7, 0.7, 0.1]])
    truth = np.array([[True, False, True], [True, False, False]])
    written = np.array([[True, True, True], [True, True, False]])
    evidence, everywhere = of_mean(mean, has_regions=True), np.ones(3, dtype=bool)
    as_written = count_held_out(evidence, truth, everywhere, written=written)
    np.testing.assert_allclose(as_written.dice, [4 / 5, 2 / 3])
    as_predicted = count_held_out(evidence, truth, everywhere)
    np.testing.assert_allclose(as_predicted.dice, [2 / 3, 2 / 3])
    assert np.array_equal(as_written.positives, as_predicted.positives)  # of probabilities, whatever is written


def test_a_probability_lies_near_the_centre_of_its_bin() -> None:
    for p in (0.0, 1e-6, 0.013, 0.2, 0.5, 0.731, 0.999, 1.0):
        mean = np.full((1, 1), p)
        mean = np.concatenate([mean, [[0.9]]])
        counts = count_held_out(of_mean(mean, has_regions=True), np.ones((2, 1), dtype=bool), np.ones(1, dtype=bool))
        centre = 1 / (1 + np.exp(-bin_logits()[np.flatnonzero(counts.totals[0])[0]]))
        assert centre == pytest.approx(p, abs=0.0025)


def test_cases_weigh_the_same_and_empty_ones_nothing() -> None:
    evidence, truth, valid = softmax_line()
    once = count_held_out(evidence, truth, valid)
    thrice = HeldOutCounts(**{name: 3 * array for name, array in asdict(once).items()})
    empty = HeldOutCounts(**{name: 0 * array for name, array in asdict(once).items()})
    shares = case_shares({"b": thrice, "c": empty, "a": once})
    assert shares.totals.shape == (2, 2, NUM_BINS)
    np.testing.assert_allclose(shares.totals[0], shares.totals[1])
    np.testing.assert_allclose(shares.totals.sum(axis=-1), 1)
    np.testing.assert_allclose(shares.positives[:, 1].sum(axis=-1), 3 / 5)
    assert shares.band_voxels.tolist() == [5, 15]
    assert len(case_shares({"c": empty}).totals) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"truth": np.zeros(11, dtype=int)}, "labels have shape"),
        ({"valid": np.ones(11, dtype=bool)}, "labels have shape"),
        ({"truth": np.full(12, 2)}, "class 2, the evidence only 2"),
    ],
)
def test_labels_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    evidence, truth, valid = softmax_line()
    with pytest.raises(StateError, match=message):
        count_held_out(**{"evidence": evidence, "truth": truth, "valid": valid, **change})


def test_a_label_without_a_head_may_lie_where_nothing_is_valid() -> None:
    evidence, truth, valid = softmax_line()
    truth[8] = 7
    assert count_held_out(evidence, truth, valid).band_voxels == 5


def test_damaged_counts_are_refused() -> None:
    arrays = asdict(count_held_out(*softmax_line()))
    with pytest.raises(StateError, match="totals of a held-out case has shape"):
        HeldOutCounts(**{**arrays, "totals": arrays["totals"][:, 1:]})
    with pytest.raises(StateError, match="overlap of a held-out case has shape"):
        HeldOutCounts(**{**arrays, "overlap": arrays["overlap"][1:]})


def test_cases_with_other_heads_are_refused() -> None:
    two = count_held_out(*softmax_line())
    three = HeldOutCounts(**{name: np.concatenate([a, a[:1]]) for name, a in asdict(two).items()})
    with pytest.raises(StateError, match=r"different numbers of heads: \[2, 3\]"):
        case_shares({"a": two, "b": three})
