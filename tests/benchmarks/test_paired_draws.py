"""The benchmark's statistics against numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from paired_draws import (
    LabelEquivalent,
    Row,
    Summary,
    gap_closed,
    label_equivalent,
    label_equivalent_range,
    on_shared_draws,
    read_runs,
    summarise,
    supervised_curve,
    t_interval,
    values_by_arm,
    with_better_of,
)


def runs(arm: str, labels: int, dice: Sequence[float], *, split: str = "test", metric: str = "dice") -> list[Row]:
    """One row per draw, as text, the way a CSV reader gives it."""
    return [{"draw": str(d), "labels": str(labels), "arm": arm, "split": split, metric: str(v)} for d, v in enumerate(dice)]


def summary(found: Sequence[Summary], labels: int, arm: str) -> Summary:
    (one,) = [s for s in found if (s.labels, s.arm) == (labels, arm)]
    return one


def test_t_interval_of_three_differences() -> None:
    # mean 2, standard deviation 1; t of two degrees of freedom at 97.5 % is 4.302653
    assert t_interval(np.array([1.0, 2.0, 3.0])) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), abs=1e-6)


def test_t_interval_of_equal_differences_is_a_point_and_of_one_unknown() -> None:
    assert t_interval(np.array([1.5, 1.5])) == (1.5, 1.5)
    assert all(map(math.isnan, t_interval(np.array([1.5]))))


def test_gap_closed_is_a_ratio_of_means() -> None:
    # gains 2 and 3, gaps 5 and 4; of two draws the bootstrap takes each twice in a quarter of all cases, so these are the ends
    found = gap_closed(np.array([83.0, 85.0]), np.array([81.0, 82.0]), np.array([86.0]))
    assert found == pytest.approx((2.5 / 4.5, 2 / 5, 3 / 4))


def test_the_ceilings_runs_are_resampled_apart_from_the_draws() -> None:
    # a gain of 1 in every draw; the ceiling 2, 3 or 4 above the control
    found = gap_closed(np.array([84.0, 84.0]), np.array([83.0, 83.0]), np.array([85.0, 87.0]))
    assert found == pytest.approx((1 / 3, 1 / 4, 1 / 2))


def test_a_ceiling_that_may_lie_below_the_control_bounds_nothing() -> None:
    ratio, low, high = gap_closed(np.array([84.0, 87.0]), np.array([82.0, 86.5]), np.array([86.0]))
    assert ratio == pytest.approx(1.25 / 1.75)
    assert (low, high) == (-math.inf, math.inf)


def test_a_ceiling_below_the_control_has_no_gap() -> None:
    assert math.isnan(gap_closed(np.array([84.0, 84.0]), np.array([83.0, 83.0]), np.array([82.0]))[0])


def test_the_bootstrap_agrees_with_all_resamples_of_three_draws() -> None:
    ours, control, ceiling = np.array([83.0, 84.0, 86.0]), np.array([82.0, 82.5, 83.0]), np.array([87.0])
    every = np.stack(np.meshgrid(range(3), range(3), range(3)), -1).reshape(-1, 3)
    ratios = (ours[every].mean(1) - control[every].mean(1)) / (87.0 - control[every].mean(1))
    ends = np.quantile(ratios, 0.025, method="inverted_cdf"), np.quantile(ratios, 0.975, method="inverted_cdf")
    assert gap_closed(ours, control, ceiling)[1:] == pytest.approx(ends)


def test_one_summary_for_each_budget_and_arm() -> None:
    rows = [
        *runs("ours", 4, [83, 85, 87]),
        *runs("control", 4, [82, 83, 84]),
        *runs("control", 8, [84]),
        *runs("ceiling", 160, [87]),
    ]
    found = summarise(rows, control="control", ceiling="ceiling")
    assert [(s.labels, s.arm) for s in found] == [(4, "control"), (4, "ours"), (8, "control"), (160, "ceiling")]
    ours = summary(found, 4, "ours")
    assert (ours.draws, ours.mean, ours.control_mean, ours.difference, ours.gap_closed) == ((0, 1, 2), 85, 83, 2, 0.5)
    assert (ours.low, ours.high) == pytest.approx((-0.484138, 4.484138), abs=1e-6)
    # a gain of 1, 2 or 3 over a gap of 5, 4 or 3
    assert (ours.gap_low, ours.gap_high) == pytest.approx((1 / 5, 1))


@pytest.mark.parametrize(("labels", "arm", "mean"), [(4, "control", 83), (160, "ceiling", 87)])
def test_what_has_no_control_only_has_its_mean(labels: int, arm: str, mean: float) -> None:
    rows = [*runs("ours", 4, [83, 85, 87]), *runs("control", 4, [82, 83, 84]), *runs("ceiling", 160, [86, 87, 88])]
    one = summary(summarise(rows, control="control", ceiling="ceiling"), labels, arm)
    assert (one.draws, one.mean) == ((0, 1, 2), mean)
    assert all(map(math.isnan, (one.control_mean, one.difference, one.low, one.high, one.gap_closed, one.gap_low, one.gap_high)))


def test_only_shared_draws_are_compared() -> None:
    rows = [*runs("ours", 8, [83, 84, 99])[:2], *runs("control", 8, [82, 82, 10])]
    one = summary(summarise(rows, control="control"), 8, "ours")
    assert (one.draws, one.mean, one.control_mean, one.difference) == ((0, 1), 83.5, 82, 1.5)
    assert math.isnan(one.gap_closed)


def test_other_splits_stay_apart() -> None:
    rows = [*runs("ours", 8, [83]), *runs("control", 8, [82]), *runs("ours", 8, [90], split="development")]
    assert summary(summarise(rows, control="control"), 8, "ours").mean == 83
    with pytest.raises(ValueError, match="no run of arm 'control' in split 'development'"):
        summarise(rows, control="control", split="development")


def test_the_gap_of_a_distance_is_closed_downwards() -> None:
    arms = {"ours": [3.0, 3.0], "control": [4.0, 4.0], "ceiling": [2.0, 2.0]}
    rows = [row for arm, values in arms.items() for row in runs(arm, 8, values, metric="hd95_mm_anterior")]
    one = summary(summarise(rows, control="control", ceiling="ceiling", metric="hd95_mm_anterior"), 8, "ours")
    assert (one.difference, one.gap_closed, one.gap_low, one.gap_high) == (-1, 0.5, 0.5, 0.5)


@pytest.mark.parametrize("value", ["", "nan", None])
def test_a_run_without_a_value_is_refused(value: str | None) -> None:
    with pytest.raises(ValueError, match="ours, 8 labels, draw 0, test: dice is"):
        values_by_arm([{"draw": "0", "labels": "8", "arm": "ours", "split": "test", "dice": value}], split="test", metric="dice")


def test_two_runs_of_one_draw_are_refused() -> None:
    with pytest.raises(ValueError, match="two rows for draw 0"):
        values_by_arm([*runs("ours", 8, [83]), *runs("ours", 8, [84])], split="test", metric="dice")


def test_runs_are_read_from_a_table(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("draw,labels,arm,split,steps,dice,seconds,commit\n0,8,ours,test,1250,84.25,600,abc\n1,8,ours,test,1250,85.5,610,abc\n")
    assert values_by_arm(read_runs(path), split="test", metric="dice") == {(8, "ours"): {0: 84.25, 1: 85.5}}


def test_the_better_control_is_that_with_the_larger_mean_where_all_have_run() -> None:
    rows = [*runs("C1", 8, [82, 83, 99]), *runs("C2", 8, [81, 85]), *runs("C1", 4, [80]), *runs("C2", 4, [79]), *runs("C1", 32, [86])]
    both = with_better_of(rows, ["C1", "C2"], name="better control")
    assert both[: len(rows)] == rows
    values = values_by_arm(both, split="test", metric="dice")
    assert {labels: found for (labels, arm), found in values.items() if arm == "better control"} == {4: {0: 80}, 8: {0: 81, 1: 85}}


def test_rows_on_draws_that_all_have() -> None:
    rows = [*runs("C1", 8, [82]), *runs("ours", 8, [81, 85]), *runs("C1", 4, [80, 81]), *runs("other", 8, [1, 2])]
    ours_of_draw_1 = rows[2]
    assert on_shared_draws(rows, ["C1", "ours", "never ran"], labels=8) == [row for row in rows if row is not ours_of_draw_1]
    assert on_shared_draws(rows, ["C1", "ours"], labels=8, split="development") == rows


CURVE = {8: 80.0, 32: 84.0, 160: 86.0}


@pytest.mark.parametrize(
    ("value", "labels", "bound"),
    [
        (82.0, 16.0, "about"),  # half of the way on a logarithmic axis
        (85.0, math.sqrt(32 * 160), "about"),
        (81.0, 8 * 4**0.25, "about"),
        (80.0, 8, "about"),
        (86.0, 160, "about"),
        (79.9, 8, "fewer than"),
        (86.1, 160, "more than"),
    ],
)
def test_labels_are_read_off_the_curve(value: float, labels: float, bound: str) -> None:
    found = label_equivalent(value, CURVE)
    assert found.labels == pytest.approx(labels)
    assert found.bound == bound


def test_a_curve_that_falls_is_read_at_its_first_crossing() -> None:
    assert label_equivalent(84.0, {8: 82.0, 32: 86.0, 160: 83.0}).labels == pytest.approx(16)


def test_a_bound_is_said() -> None:
    assert str(label_equivalent(90, CURVE)) == "more than 160 labels"
    assert str(LabelEquivalent(labels=22.6, bound="about")) == "about 23 labels"


def test_how_far_a_reading_holds() -> None:
    """On each of two draws ours is 2 ahead of supervised training, which the pairs keep: 2 of 5 points of the way, or 2 of 3."""
    curve = {8: {0: 81.0, 1: 83.0}, 32: {5: 86.0}}
    low, high = label_equivalent_range({0: 83.0, 1: 85.0}, curve, budget=8)
    assert (low.labels, high.labels) == (pytest.approx(8 * 4 ** (2 / 5)), pytest.approx(8 * 4 ** (2 / 3)))
    # not in pairs: our worse draw with the better control lies at the start of the curve
    low, high = label_equivalent_range({2: 83.0, 3: 85.0}, curve, budget=8)
    assert (low.short, high.short) == ("8", "24")
    assert [end.short for end in label_equivalent_range({0: 80.0, 1: 90.0}, curve, budget=8)] == ["<8", ">32"]


def test_the_curve_is_made_of_means() -> None:
    rows = [*runs("control", 32, [84, 86]), *runs("control", 8, [82, 83]), *runs("ceiling", 160, [87]), *runs("ours", 8, [85])]
    assert supervised_curve(rows, arms=["control", "ceiling"]) == {8: 82.5, 32: 85, 160: 87}
    with pytest.raises(ValueError, match="runs with 8 labels"):
        supervised_curve(rows, arms=["control", "ours"])
