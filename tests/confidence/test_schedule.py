"""Adaptive fractions, and the order that leaves the most confident cases out."""

from __future__ import annotations

from itertools import pairwise

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


def grown(fractions: tuple[float, ...], changes: list[float], **limits: float) -> list[float]:
    """Fractions of an adaptive schedule, up to the one that is the last."""
    found = [fractions[0]]
    for stage, change in enumerate(changes, start=2):
        if found[-1] == fractions[-1]:
            break
        found.append(next_fraction(fractions, stage, found[-1], change, **limits))
    return found


def test_rounding_does_not_repeat_the_whole_pool() -> None:
    """A step of 0.3 at a pace of 1.5: 0.1 + 0.45 + 0.45, which is 0.9999999999999999 in floating point."""
    assert grown((0.1, 0.4, 0.7, 1.0), [0.025] * 3, **LIMITS) == [0.1, pytest.approx(0.55), 1.0]


def test_no_change_allowed_is_the_slowest_pace() -> None:
    assert next_fraction(FRACTIONS, 2, 0.2, 0.0, max_change=0.0, stop_change=0.0) == pytest.approx(0.3)


@given(st.sets(st.integers(1, 100), min_size=1, max_size=8), st.lists(st.floats(0, 1), min_size=7, max_size=7), st.floats(0, 1))
def test_no_schedule_is_longer_than_the_fixed_one(percent: set[int], changes: list[float], max_change: float) -> None:
    fractions = tuple(p / 100 for p in sorted(percent))
    found = grown(fractions, changes, max_change=max_change, stop_change=0.0)
    assert len(found) <= len(fractions)
    assert found[-1] == fractions[-1]
    # a stage takes more of the pool than the one before, by more than rounding
    assert all(after - before > 1e-6 for before, after in pairwise(found))


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


def test_dropped_share_is_exact_in_percent() -> None:
    """0.29 of 100 cases are 29, not the 28 of 28.999999999999996."""
    scores: dict[str, float | None] = {f"{i:03d}": 1 - i / 100 for i in range(100)}
    dropped = [r.case for r in rank_cases(scores, dict.fromkeys(scores, "s"), "drop-most-confident", dropped_share=0.29) if r.is_dropped]
    assert dropped == [f"{i:03d}" for i in range(29)]


def test_what_is_dropped_is_dropped_from_every_stratum_alike() -> None:
    """The better half of the interleaved order: of the four easy cases two, of the two hard ones one."""
    scores: dict[str, float | None] = {"x1": 0.99, "x2": 0.98, "x3": 0.97, "x4": 0.96, "y1": 0.2, "y2": 0.1}
    ranking = rank_cases(scores, {case: case[0] for case in scores}, "drop-most-confident", dropped_share=0.5)
    assert sorted(r.case for r in ranking if r.is_dropped) == ["x1", "x2", "y1"]
    assert sorted(r.case for r in select(ranking, 1.0)) == ["x3", "x4", "y2"]
    assert [r.rank for r in ranking] == [1, 2, 3, 4, 5, 6]


def test_other_orders_drop_nothing() -> None:
    scores: dict[str, float | None] = {"a": 0.9, "b": 0.1}
    assert not any(r.is_dropped for r in rank_cases(scores, dict.fromkeys(scores, "s"), "ranked", dropped_share=0.5))
