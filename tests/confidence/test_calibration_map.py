"""Calibration maps: curves by hand, order and sums kept, the same after a journey through JSON."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ssl.confidence.calibration_map import LOGIT_LIMIT, CalibrationMap, Knots, LogitLine, clipped_logits
from nnunet_ssl.errors import StateError

LINES = (LogitLine(), LogitLine(slope=0.5), LogitLine(slope=2.0, intercept=-1.0))

probabilities = st.floats(0, 1, width=32)
lines = st.builds(LogitLine, slope=st.floats(0.1, 10), intercept=st.floats(-LOGIT_LIMIT, LOGIT_LIMIT))
knots = st.lists(st.tuples(st.integers(-600, 600), st.floats(1e-5, 1 - 1e-5)), min_size=1, max_size=20, unique_by=lambda knot: knot[0]).map(
    lambda pairs: Knots(logits=tuple(x / 50 for x in sorted(x for x, _ in pairs)), probabilities=tuple(sorted(y for _, y in pairs)))
)


def isotonic(*heads: LogitLine | Knots, has_regions: bool = False) -> CalibrationMap:
    return CalibrationMap(kind="isotonic", has_regions=has_regions, heads=heads)


def column(*values: float) -> np.ndarray:
    """Probabilities of one voxel, (H, 1)."""
    return np.array(values, dtype=np.float32)[:, None]


def test_a_temperature_divides_the_logit() -> None:
    halved = CalibrationMap(kind="temperature", has_regions=True, heads=(LogitLine(slope=0.5),))
    # odds of 4 become odds of 2
    assert halved.apply(column(0.8))[0, 0] == pytest.approx(2 / 3, abs=1e-6)


def test_softmax_heads_are_normalised_and_regions_are_not() -> None:
    heads = (LogitLine(), LogitLine(slope=0.5))
    # 0.2 has odds of 1/4, which become 1/2
    np.testing.assert_allclose(isotonic(*heads, has_regions=True).apply(column(0.8, 0.2))[:, 0], [0.8, 1 / 3], atol=1e-6)
    expected = np.array([0.8, 1 / 3]) / (0.8 + 1 / 3)
    np.testing.assert_allclose(isotonic(*heads).apply(column(0.8, 0.2))[:, 0], expected, atol=1e-6)
    np.testing.assert_allclose(isotonic(*heads).one_vs_rest(column(0.8, 0.2))[:, 0], [0.8, 1 / 3], atol=1e-6)


def test_knots_are_joined_by_straight_lines_in_the_logit() -> None:
    curve = Knots(logits=(-1.0, 0.0, 2.0), probabilities=(0.1, 0.3, 0.9))
    np.testing.assert_allclose(curve(np.array([-9.0, -1.0, -0.5, 1.0, 2.0, 9.0])), [0.1, 0.1, 0.2, 0.6, 0.9, 0.9])


def test_certain_evidence_is_never_certain_afterwards() -> None:
    steep = CalibrationMap(kind="logistic", has_regions=False, heads=(LogitLine(slope=10), LogitLine(slope=10)))
    q = steep.apply(column(0, 1))
    assert q[0, 0] == pytest.approx(1 / (1 + math.exp(LOGIT_LIMIT)), rel=1e-3)
    assert 0 < q[0, 0] < q[1, 0] < 1
    assert clipped_logits(np.array([0.0, 1.0])).tolist() == [-LOGIT_LIMIT, LOGIT_LIMIT]


@given(head=st.one_of(lines, knots), values=st.lists(probabilities, min_size=2, max_size=8))
def test_curves_keep_the_order(head: LogitLine | Knots, values: list[float]) -> None:
    mean = np.sort(np.array([values], dtype=np.float32))
    q = isotonic(head, has_regions=True).one_vs_rest(mean)[0]
    assert (np.diff(q) >= 0).all()
    assert ((q > 0) & (q < 1)).all()


@given(heads=st.lists(st.one_of(lines, knots), min_size=2, max_size=5), data=st.data())
def test_softmax_heads_sum_to_one(heads: list[LogitLine | Knots], data: st.DataObject) -> None:
    raw = data.draw(st.lists(st.floats(0, 1), min_size=len(heads), max_size=len(heads)).filter(lambda p: sum(p) > 0.1))
    q = isotonic(*heads).apply(column(*(np.array(raw) / sum(raw))))
    assert q.dtype == np.float32
    assert q.sum() == pytest.approx(1, abs=1e-6)
    assert ((q > 0) & (q < 1)).all()


@settings(max_examples=50)
@given(heads=st.lists(st.one_of(lines, knots), min_size=2, max_size=4), has_regions=st.booleans())
def test_json_keeps_every_bit(heads: list[LogitLine | Knots], has_regions: bool) -> None:
    original = isotonic(*heads, has_regions=has_regions)
    restored = CalibrationMap.from_dict(json.loads(json.dumps(original.to_dict())))
    assert restored == original
    mean = np.random.default_rng(0).dirichlet(np.ones(len(heads)), size=50).T.astype(np.float32)
    assert restored.apply(mean).tobytes() == original.apply(mean).tobytes()


def test_volumes_keep_their_shape() -> None:
    mean = np.random.default_rng(0).dirichlet(np.ones(3), size=(2, 3, 4)).transpose(3, 0, 1, 2).astype(np.float32)
    q = CalibrationMap(kind="logistic", has_regions=False, heads=LINES).apply(mean)
    assert q.shape == mean.shape
    np.testing.assert_array_equal(
        q[:, 1, 2, 3], CalibrationMap(kind="logistic", has_regions=False, heads=LINES).apply(mean[:, 1, 2, 3, None])[:, 0]
    )


def test_other_numbers_of_heads_are_refused() -> None:
    with pytest.raises(StateError, match="2 heads, the calibration 3"):
        CalibrationMap(kind="logistic", has_regions=False, heads=LINES).apply(column(0.5, 0.5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "spline"}, "kind 'spline'"),
        ({"heads": []}, "0 heads"),
        ({"heads": [{"slope": -1.0, "intercept": 0.0}] * 2}, "slope -1.0"),
        ({"heads": [{"slope": 1.0, "intercept": math.nan}] * 2}, "must be finite"),
        ({"heads": [{"slope": "steep", "intercept": 0.0}] * 2}, "no calibration map"),
        ({"heads": [{"steepness": 1.0}] * 2}, "no calibration map"),
        ({"heads": ["slope"] * 2}, "no calibration map"),
        ({"heads": [{"logits": [0.0, 1.0], "probabilities": [0.5, 0.4]}] * 2}, "damaged"),
        ({"heads": [{"logits": [1.0, 0.0], "probabilities": [0.4, 0.5]}] * 2}, "damaged"),
        ({"heads": [{"logits": [0.0], "probabilities": [1.0]}] * 2}, "damaged"),
        ({"heads": [{"logits": [], "probabilities": []}] * 2}, "damaged"),
        ({"heads": [{"logits": [0.0, 1.0], "probabilities": [0.5]}] * 2}, "damaged"),
        ({"kind": "logistic", "heads": [{"logits": [0.0], "probabilities": [0.5]}] * 2}, "belong to 'isotonic'"),
        ({"has_regions": "no"}, "has_regions"),
    ],
)
def test_damaged_maps_are_refused(change: dict[str, Any], message: str) -> None:
    good = isotonic(LogitLine(), LogitLine()).to_dict()
    with pytest.raises(StateError, match=message):
        CalibrationMap.from_dict({**good, **change})


def test_a_map_without_heads_is_refused() -> None:
    with pytest.raises(StateError, match="no calibration map"):
        CalibrationMap.from_dict({"kind": "logistic", "has_regions": False})
