"""Held-out cases that two quantities share, and resamples of them."""

import numpy as np
import pytest

from nnunet_ssl.confidence.case_bootstrap import (
    NUM_RESAMPLES,
    defined_resamples,
    resample_cases,
    values_of_all_cases,
    values_of_common_cases,
)
from nnunet_ssl.errors import StateError


def test_only_cases_with_all_values_count_in_the_order_of_their_ids() -> None:
    dice = {"d": 0.4, "a": 0.1, "b": float("nan"), "c": 0.3, "e": 0.5}
    one = {"a": 1.0, "b": 2.0, "c": None, "d": 4.0, "e": 5.0, "z": 9.0}
    other = {"a": 10.0, "d": 40.0, "c": 30.0, "e": float("nan")}
    truth, first, second = values_of_common_cases(dice, one, other)
    assert (truth.tolist(), first.tolist(), second.tolist()) == ([0.1, 0.4], [1, 4], [10, 40])
    assert values_of_common_cases(dice)[0].tolist() == [0.1, 0.3, 0.4, 0.5]
    assert [len(values) for values in values_of_common_cases({}, one)] == [0, 0]


def test_every_case_with_a_dice_counts_whether_it_has_a_score_or_not() -> None:
    nan = float("nan")
    truth, scores = values_of_all_cases({"d": 0.4, "a": 0.1, "b": nan, "c": 0.3}, {"a": 1.0, "b": 2.0, "c": None, "z": 9.0})
    assert truth.tolist() == [0.1, 0.3, 0.4]
    np.testing.assert_array_equal(scores, [1.0, nan, nan])
    assert [len(values) for values in values_of_all_cases({}, {"a": 1.0})] == [0, 0]


@pytest.mark.parametrize("value", [-0.1, 87.0, float("inf")])
def test_a_dice_out_of_range_is_named(value: float) -> None:
    with pytest.raises(StateError, match="'b' is"):
        values_of_common_cases({"a": 0.5, "b": value})
    with pytest.raises(StateError, match="'b' is"):
        values_of_all_cases({"a": 0.5, "b": value}, {})


def test_resamples_are_of_all_cases_and_repeatable() -> None:
    resamples = resample_cases(5, seed=3)
    assert resamples.shape == (NUM_RESAMPLES, 5)
    assert set(np.unique(resamples)) == set(range(5))
    np.testing.assert_array_equal(resamples, resample_cases(5, seed=3))
    assert (resamples != resample_cases(5, seed=4)).any()


def test_a_statistic_that_is_mostly_undefined_is_none() -> None:
    nan = float("nan")
    defined = defined_resamples(np.array([nan, 0.1, 0.2, nan]))
    assert defined is not None
    assert defined.tolist() == [0.1, 0.2]
    assert defined_resamples(np.array([nan, 0.1, nan])) is None
