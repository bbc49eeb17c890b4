"""Agreement of two labellings and the share of foreground that changed."""

import numpy as np
import pytest

from nnunet_ssl.confidence.agreement import Change, agreement_confidence, changed_foreground, overall_change, pooled_changes
from nnunet_ssl.errors import StateError


def test_agreeing_voxels_take_the_mean_and_others_are_ignored() -> None:
    one, other = np.array([[0, 1, 2]]), np.array([[0, 1, 1]])
    c1, c2 = np.array([[[0.9, 0.6, 0.8]]], dtype=np.float32), np.array([[[0.7, 0.8, 0.9]]], dtype=np.float32)
    confidence, ignored = agreement_confidence(one, other, c1, c2)
    np.testing.assert_allclose(confidence, [[[0.8, 0.7, 0]]], atol=1e-6)
    assert confidence.dtype == np.float32
    assert ignored.tolist() == [[[False, False, True]]]


def test_regions_agree_one_by_one() -> None:
    one, other = np.array([[True, False], [True, True]]), np.array([[True, True], [False, True]])
    c = np.full((2, 2), 0.5, dtype=np.float32)
    confidence, ignored = agreement_confidence(one, other, c, c)
    assert ignored.tolist() == [[False, True], [True, False]]
    assert confidence.tolist() == [[0.5, 0], [0, 0.5]]


def test_shapes_that_do_not_fit_are_refused() -> None:
    labels, c = np.zeros((2, 3), dtype=int), np.zeros((1, 2, 3), dtype=np.float32)
    with pytest.raises(StateError, match="same case"):
        agreement_confidence(labels, labels[:1], c, c)
    with pytest.raises(StateError, match="confidences have shapes"):
        agreement_confidence(labels, labels, c, c[..., :1])
    with pytest.raises(StateError, match="same case"):
        changed_foreground(labels, labels[:1], 2)
    with pytest.raises(StateError, match="expected 0 to 1"):
        changed_foreground(labels + 2, labels, 2)
    with pytest.raises(StateError, match="regions"):
        changed_foreground(labels.astype(bool), labels.astype(bool), 3, has_regions=True)


def test_changes_per_class_are_over_the_union() -> None:
    before = np.array([[0, 1, 1, 2, 0, 1]], dtype=np.int16)
    after = np.array([[0, 1, 2, 2, 1, 1]], dtype=np.int16)
    changes = changed_foreground(before, after, 4)
    # class 1: voxels 1, 2, 4, 5, of which 2 and 4 changed; class 2: voxels 2 and 3, of which 2
    assert changes == {1: Change(2, 4), 2: Change(1, 2), 3: Change(0, 0)}
    assert changes[1].share == 0.5
    assert changes[3].share is None


def test_small_label_types_do_not_overflow() -> None:
    before, after = np.full(4, 19, dtype=np.uint8), np.full(4, 18, dtype=np.uint8)
    assert changed_foreground(before, after, 20)[19] == Change(4, 4)


def test_changes_per_region() -> None:
    before, after = np.array([[1, 1, 0], [0, 0, 0]], dtype=bool), np.array([[1, 0, 1], [0, 0, 1]], dtype=bool)
    assert changed_foreground(before, after, 2, has_regions=True) == {0: Change(2, 3), 1: Change(1, 1)}


def test_shares_are_pooled_over_voxels_not_cases() -> None:
    pooled = pooled_changes([{1: Change(1, 10), 2: Change(0, 5)}, {1: Change(9, 90)}])
    assert pooled == {1: Change(10, 100), 2: Change(0, 5)}
    assert overall_change(pooled) == Change(10, 105)
    assert overall_change({}).share is None
