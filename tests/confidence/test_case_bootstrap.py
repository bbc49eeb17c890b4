"""Held-out cases that two quantities share, and resamples of them."""

import numpy as np
import pytest

from nnunet_ssl.confidence.case_bootstrap import (
    NUM_RESAMPLES,
    common_cases,
    defined_resamples,
    resample_cases,
    values_of_all_cases,
)
from nnunet_ssl.errors import StateError


def test_only_cases_with_all_values_count_in_the_order_of_their_ids() -> None:
    dice = {"d": 0.4, "a": 0.1, "b": float("nan"), "c": 0.3, "e": 0.5}
    one = {"a": 1.0, "b": 2.0, "c": None, "d": 4.0, "e": 5.0, "z": 9.0}
    other = {"a": 10.0, "d": 40.0, "c": 30.0, "e": float("nan")}
    (truth, first, second), strata = common_cases(dice, one, other)
    assert (truth.tolist(), first.tolist(), second.tolist()) == ([0.1, 0.4], [1, 4], [10, 40])
    assert strata.tolist() == [0, 0]
    assert common_cases(dice).values[0].tolist() == [0.1, 0.3, 0.4, 0.5]
    assert [len(values) for values in common_cases({}, one).values] == [0, 0]


def test_cases_alone_in_their_stratum_do_not_count_where_there_are_several() -> None:
    dice = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4, "e": 0.5}
    (truth,), strata = common_cases(dice, strata={"a": "z", "b": "rim", "c": "z", "d": "core", "e": "core"})
    assert (truth.tolist(), strata.tolist()) == ([0.1, 0.3, 0.4, 0.5], [2, 2, 0, 0])
    assert common_cases({"a": 0.1}, strata={"a": "z"}).values[0].tolist() == [0.1]
    # b has no score, which leaves c alone
    (truth, _), _ = common_cases(dice, {"a": 1, "c": 1, "d": 1, "e": 1}, strata=dict(zip("abcde", "11122", strict=True)) | {"a": "3"})
    assert truth.tolist() == [0.4, 0.5]


def test_every_case_with_a_dice_counts_whether_it_has_a_score_or_not() -> None:
    nan = float("nan")
    truth, scores = values_of_all_cases({"d": 0.4, "a": 0.1, "b": nan, "c": 0.3}, {"a": 1.0, "b": 2.0, "c": None, "z": 9.0})
    assert truth.tolist() == [0.1, 0.3, 0.4]
    np.testing.assert_array_equal(scores, [1.0, nan, nan])
    assert [len(values) for values in values_of_all_cases({}, {"a": 1.0})] == [0, 0]


@pytest.mark.parametrize("value", [-0.1, 87.0, float("inf")])
def test_a_dice_out_of_range_is_named(value: float) -> None:
    with pytest.raises(StateError, match="'b' is"):
        common_cases({"a": 0.5, "b": value})
    with pytest.raises(StateError, match="'b' is"):
        values_of_all_cases({"a": 0.5, "b": value}, {})


def test_resamples_are_of_all_cases_and_repeatable() -> None:
    one = np.zeros(5, dtype=np.intp)
    resamples = resample_cases(one, seed=3)
    assert resamples.shape == (NUM_RESAMPLES, 5)
    assert [set(np.unique(place)) for place in resamples.T] == [set(range(5))] * 5
    np.testing.assert_array_equal(resamples, resample_cases(one, seed=3))
    assert (resamples != resample_cases(one, seed=4)).any()


def test_resamples_stay_within_strata() -> None:
    resamples = resample_cases(np.array([1, 0, 1, 0, 0]), seed=3)
    assert [set(np.unique(place)) for place in resamples.T] == [{0, 2}, {1, 3, 4}, {0, 2}, {1, 3, 4}, {1, 3, 4}]
    same = (resamples[:, 0] == resamples[:, 2]).mean()
    assert same == pytest.approx(0.5, abs=0.05)


def test_a_statistic_that_is_mostly_undefined_is_none() -> None:
    nan = float("nan")
    defined = defined_resamples(np.array([nan, 0.1, 0.2, nan]))
    assert defined is not None
    assert defined.tolist() == [0.1, 0.2]
    assert defined_resamples(np.array([nan, 0.1, nan])) is None
