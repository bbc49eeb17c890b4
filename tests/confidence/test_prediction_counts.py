"""Counts of right and wrong labels by class and confidence, by hand."""

from typing import Any

import numpy as np
import pytest

from nnunet_ssl.confidence.prediction_counts import PredictionCounts, confidence_bins, count_predictions, pool_counts
from nnunet_ssl.errors import StateError

ALL = np.ones(5, dtype=bool)


def filled(counts: np.ndarray) -> dict[tuple[int, int], float]:
    return {(int(k), int(b)): float(counts[k, b]) for k, b in zip(*np.nonzero(counts), strict=True)}


def softmax_case() -> dict[str, Any]:
    q = np.array([[0.71, 0.10, 0.05, 0.05, 0.30], [0.19, 0.83, 0.84, 0.35, 0.30], [0.10, 0.07, 0.11, 0.60, 0.40]], dtype=np.float32)
    return {"q": q, "truth": np.array([0, 1, 2, 2, -1]), "valid": ALL, "band": ALL, "has_regions": False}


def test_labels_count_at_their_own_confidence() -> None:
    counts = count_predictions(**softmax_case())
    # bins are 0.02 wide: 0.71 is in bin 35, 0.83 in 41, 0.84 begins 42, 0.60 begins 30; the last voxel has no manual label
    assert filled(counts.totals) == {(0, 35): 1, (1, 41): 1, (1, 42): 1, (2, 30): 1}
    assert filled(counts.correct) == {(0, 35): 1, (1, 41): 1, (2, 30): 1}
    assert counts.voxels == 4


def test_only_valid_voxels_of_the_band_count() -> None:
    case = softmax_case()
    counts = count_predictions(**{**case, "valid": np.arange(5) != 0, "band": np.arange(5) != 1})
    assert filled(counts.totals) == {(1, 42): 1, (2, 30): 1}
    assert counts.voxels == 2


def test_regions_count_on_the_side_that_is_predicted() -> None:
    q = np.array([[0.91, 0.31, 0.31, 0.5, 1.0], [0.01, 0.01, 0.01, 0.01, 0.01]], dtype=np.float32)
    truth = np.array([[1, 0, 1, 1, 1], [0, 0, 0, 0, 1]], dtype=bool)
    counts = count_predictions(q, truth, ALL, ALL, has_regions=True)
    # outside with confidence 0.69 twice, once wrongly; exactly one half is outside, too
    assert filled(counts.totals) == {(0, 45): 1, (0, 34): 2, (0, 25): 1, (0, 49): 1, (1, 49): 5}
    assert filled(counts.correct) == {(0, 45): 1, (0, 34): 1, (0, 49): 1, (1, 49): 4}
    assert counts.voxels == 5


def test_a_region_that_the_label_map_contradicts_is_unsure() -> None:
    q = np.array([[0.41, 0.41, 0.81], [0.71, 0.71, 0.11]], dtype=np.float32)
    truth = np.array([[True, False, True], [True, False, False]])
    written = np.array([[True, True, True], [True, True, False]])
    everywhere = np.ones(3, dtype=bool)
    counts = count_predictions(q, truth, everywhere, everywhere, has_regions=True, written=written)
    # the whole is written at 0.41, once wrongly
    assert filled(counts.totals) == {(0, 20): 2, (0, 40): 1, (1, 35): 2, (1, 44): 1}
    assert filled(counts.correct) == {(0, 20): 1, (0, 40): 1, (1, 35): 1, (1, 44): 1}


def test_a_lower_edge_belongs_to_its_bin() -> None:
    edges = np.arange(50) / 50
    assert confidence_bins(edges.astype(np.float32)).tolist() == list(range(50))
    assert confidence_bins(np.array([0.0199, 0.999, 1.0])).tolist() == [0, 49, 49]


def test_cases_are_sorted_and_empty_ones_left_out() -> None:
    case = softmax_case()
    full, empty = count_predictions(**case), count_predictions(**{**case, "band": ~ALL})
    pooled = pool_counts({"c": full, "b": empty, "a": count_predictions(**{**case, "band": np.arange(5) < 2})})
    assert pooled.voxels.tolist() == [2, 4]
    assert pooled.totals.shape == (2, 3, 50)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"truth": np.zeros(4, dtype=int)}, "labels have shape"),
        ({"band": ALL[1:]}, "foreground band has shape"),
        ({"truth": np.full(5, 3)}, "class 3"),
        ({"has_regions": True}, "labels have shape"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(StateError, match=message):
        count_predictions(**{**softmax_case(), **change})


def test_counts_of_other_shapes_are_refused() -> None:
    two, three = (PredictionCounts(totals=np.zeros((h, 50)), correct=np.zeros((h, 50)), voxels=1) for h in (2, 3))
    with pytest.raises(StateError, match="expected cases of one shape"):
        pool_counts({"a": two, "b": three})
    with pytest.raises(StateError, match="0 held-out cases"):
        pool_counts({})
    with pytest.raises(StateError, match="prediction counts have shapes"):
        PredictionCounts(totals=np.zeros((2, 50)), correct=np.zeros((3, 50)), voxels=1)
    with pytest.raises(StateError, match="prediction counts have shapes"):
        PredictionCounts(totals=np.zeros((2, 49)), correct=np.zeros((2, 49)), voxels=1)
