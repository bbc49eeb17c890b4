"""Dice by difficulty, on cases with numbers worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from by_difficulty import by_difficulty, case_tables, interval, volume_ratio
from case_metrics import write_cases
from finished_run import CASES

Table = dict[str, dict[str, float]]


def cases(dice: Sequence[float], volume: float = 10.0) -> Table:
    """Cases a, b, ... of one class with a true volume of 10."""
    return {
        case: {"dice_all": value, "volume_mm3_all": volume, "true_volume_mm3_all": 10.0} for case, value in zip("abcd", dice, strict=False)
    }


def test_cases_are_grouped_by_the_third_arm_in_every_draw() -> None:
    draws = {
        3: {"teacher": cases([80, 20, 40, 90]), "one": cases([70, 30, 30, 90]), "other": cases([70, 50, 40, 80])},
        4: {"teacher": cases([10, 90, 80, 20]), "one": cases([10, 90, 90, 10]), "other": cases([10, 90, 90, 50])},
    }
    found = by_difficulty(draws, by="teacher", arms=("one", "other"), groups=2)
    assert list(found) == ["teacher", "one", "other", "other - one"]
    # draw 3: b and c are the hardest, draw 4: a and d
    assert found["one"].tolist() == [[55, 30, 80], [50, 10, 90]]
    assert found["other"].tolist() == [[60, 45, 75], [60, 30, 90]]
    assert found["other - one"].tolist() == [[5, 15, -5], [10, 20, 0]]


def test_dice_of_a_case_is_the_mean_of_the_classes_that_it_has() -> None:
    table: Table = {"a": {"dice_1": 50.0, "dice_2": 100.0}, "b": {"dice_1": 60.0, "dice_2": float("nan")}}
    found = by_difficulty({0: dict.fromkeys(("teacher", "one", "other"), table)}, by="teacher", arms=("one", "other"), groups=2)
    assert found["one"].tolist() == [[67.5, 60, 75]]


def test_an_arm_that_is_compared_cannot_sort() -> None:
    draws = {0: {"one": cases([1, 2]), "other": cases([1, 2])}}
    with pytest.raises(ValueError, match=r"one cannot sort the cases and be compared: .* name a third arm"):
        by_difficulty(draws, by="one", arms=("one", "other"), groups=2)


@pytest.mark.parametrize(
    ("other", "groups", "message"),
    [
        (cases([1, 2, 3]), 2, "draw 7: other and teacher have different cases"),
        (cases([1, 2]), 3, "draw 7: 2 cases are fewer than 3 groups"),
    ],
)
def test_cases_that_cannot_be_grouped_are_refused(other: Table, groups: int, message: str) -> None:
    two = cases([1, 2])
    with pytest.raises(ValueError, match=message):
        by_difficulty({7: {"teacher": two, "one": two, "other": other}}, by="teacher", arms=("one", "other"), groups=groups)


def test_volumes_are_compared_case_by_case() -> None:
    draws = {3: {"one": cases([1, 1], volume=11.0)}, 4: {"one": cases([1, 1], volume=12.0)}}
    assert volume_ratio(draws, "one") == pytest.approx(1.15)


def test_an_interval_needs_two_draws() -> None:
    assert interval(np.array([1.5])) == " +1.50"
    # standard error 0.5, t of one degree of freedom 12.71
    assert interval(np.array([1.0, 2.0])) == " +1.50 (-4.85 to +7.85)"


def finished(rows: Path, arm: str, draw: int, *, network: str = "TransASPPUNet", labels: int = 4, split: str = "test") -> None:
    stem = f"{split}_l{labels}_d{draw}_{network}.{arm}"
    row = {"split": split, "labels": labels, "draw": draw, "arm": arm, "network": network}
    row |= {"teacher": "", "teachers": "single", "frozen": "", "steps": 3000, "cases": 1}
    rows.joinpath(f"{stem}.json").write_text(json.dumps(row))
    write_cases(rows / f"{stem}{CASES}", cases([draw]))


def test_draws_that_have_all_arms_are_read(tmp_path: Path) -> None:
    for arm in ("teacher", "ours"):
        finished(tmp_path, arm, 3)
        finished(tmp_path, arm, 5, network="PlainConvUNet")
        finished(tmp_path, arm, 6, labels=8)
        finished(tmp_path, arm, 7, split="development")
    finished(tmp_path, "ours", 4)
    tables = case_tables(tmp_path, ["teacher", "ours"], split="test", labels=4, network="TransASPPUNet")
    assert {draw: sorted(arms) for draw, arms in tables.items()} == {3: ["ours", "teacher"]}
    assert tables[3]["ours"]["a"]["dice_all"] == 3
    assert list(case_tables(tmp_path, ["teacher", "ours"], split="test", labels=4, network="plans")) == [5]
    with pytest.raises(ValueError, match=r"no draw of 4 labels in .* has cases \(\*.cases.csv\) of all of teacher, naive, split 'test'"):
        case_tables(tmp_path, ["teacher", "naive"], split="test", labels=4, network="TransASPPUNet")
