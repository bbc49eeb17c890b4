"""Fixed-point forms: every stored number survives, every value is off by half a step at most, bounds are exact."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from nnunet_ssl.confidence import quantise
from nnunet_ssl.errors import StateError

FORMS = [
    (quantise.probability_to_uint16, quantise.probability_from_uint16, 0.0, 1.0, 65535),
    (quantise.variance_to_uint16, quantise.variance_from_uint16, 0.0, 0.25, 65535),
    (quantise.log_variance_to_uint16, quantise.log_variance_from_uint16, math.log(1e-4), math.log(0.25), 65535),
    (quantise.share_to_int16, quantise.share_from_int16, 0.0, 1.0, 10000),
]
forms = pytest.mark.parametrize(("store", "load", "low", "high", "steps"), FORMS, ids=["probability", "variance", "log_variance", "share"])


@forms
def test_every_stored_number_survives(store: Callable, load: Callable, low: float, high: float, steps: int) -> None:
    stored = np.arange(steps + 1).astype(store(np.zeros(1)).dtype)
    assert load(stored).dtype == np.float32
    np.testing.assert_array_equal(store(load(stored)), stored)


@forms
def test_error_is_half_a_step_at_most(store: Callable, load: Callable, low: float, high: float, steps: int) -> None:
    values = np.random.default_rng(0).uniform(low, high, 20000).astype(np.float32)
    error = np.abs(load(store(values)).astype(np.float64) - values)
    # the rest is float32 itself, whose numbers lie 1e-6 apart near log 1e-4
    assert error.max() <= 0.5 * (high - low) / steps + 1e-6


@forms
def test_bounds_are_exact_and_clip(store: Callable, load: Callable, low: float, high: float, steps: int) -> None:
    stored = store(np.array([low - 1, low, high, high + 1]))
    assert stored.tolist() == [0, 0, steps, steps]
    np.testing.assert_array_equal(load(stored), np.array([low, low, high, high], dtype=np.float32))


@forms
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_values_are_refused(store: Callable, load: Callable, low: float, high: float, steps: int, bad: float) -> None:
    with pytest.raises(StateError, match="NaN"):
        store(np.array([0.1, bad]))


def test_a_threshold_survives_as_the_same_float32() -> None:
    taus = np.arange(0, 101) / 100
    np.testing.assert_array_equal(quantise.share_from_int16(quantise.share_to_int16(taus)), taus.astype(np.float32))
