"""Adaptive fractions, and the order that leaves the most confident cases out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_ssl.confidence.curriculum import next_fraction, rank_cases, select

FRACTIONS = (0.2, 0.4, 0.6, 0.8, 1.0)
LIMITS = {"max_change": 0.1, "stop_change": 0.01}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (0.05, 0.4),  # half of what is allowed: the fixed schedule's step of 0.2
        (0.025, 0.5),  # a quarter: 1.5 steps
        (0.08, 0.3),  # 0.4 steps are raised to half a step
        (0.3, 0.3),  # refused labels: half a step
        (0.009, 1.0),  # settled
    ],
)
def test_pace_follows_the_change(change: float, expected: float) -> None:
    assert next_fraction(FRACTIONS, 2, 0.2, change, **LIMITS) == pytest.approx(expected)


def test_last_stage_takes_the_last_fraction() -> None:
    assert next_fraction(FRACTIONS, 5, 0.3, 0.09, **LIMITS) == 1.0
    assert next_fraction((0.1, 0.8), 2, 0.1, 0.09, **LIMITS) == 0.8


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.floats(0, 1), st.floats(0, 0.2))
def test_fractions_never_fall_and_end_at_the_last(changes: list[float], max_change: float, stop_change: float) -> None:
    fractions = [FRACTIONS[0]]
    for stage, change in enumerate(changes, start=2):
        fractions.append(next_fraction(FRACTIONS, stage, fractions[-1], change, max_change=max_change, stop_change=stop_change))
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_most_confident_cases_are_left_out_of_every_stage() -> None:
    scores: dict[str, float | None] = {f"case_{i}": i / 10 for i in range(10)} | {"none": None}
    ranking = rank_cases(scores, dict.fromkeys(scores, "s"), "drop-most-confident", dropped_share=0.29)
    assert [r.case for r in ranking if r.is_dropped] == ["case_9", "case_8"]  # 2.9 of ten scored cases, rounded down
    assert [r.case for r in ranking][:3] == ["case_7", "case_6", "case_5"]
    assert [r.case for r in ranking][-3:] == ["none", "case_9", "case_8"]
    assert [r.case for r in select(ranking, 1.0)] == [*(f"case_{i}" for i in range(7, -1, -1)), "none"]
    assert len(select(ranking, 0.5)) == 4  # of the nine that are kept


def test_other_orders_drop_nothing() -> None:
    scores: dict[str, float | None] = {"a": 0.9, "b": 0.1}
    assert not any(r.is_dropped for r in rank_cases(scores, dict.fromkeys(scores, "s"), "ranked", dropped_share=0.5))
