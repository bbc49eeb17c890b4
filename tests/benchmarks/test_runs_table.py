"""The table of all runs: columns of rows from different days, lines of the comparison, and the figures on disk."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from runs_table import BETTER, as_text, comparison, controls_of, read_rows, write_figures, write_table

ARMS = {"supervised": 80.0, "supervised_continued": 81.0, "ours": 82.0}


def row(arm: str, draw: int, dice: float, labels: int = 8) -> dict[str, Any]:
    values = {"dice": dice, "dice_anterior": dice + 1, "surface_dice_anterior": 95.0, "hd95_mm_anterior": 1.5}
    return {
        "split": "test",
        "labels": labels,
        "draw": draw,
        "arm": arm,
        "network": "TransASPPUNet",
        "teacher": "",
        "steps": 3000,
        "teachers": "single",
        "frozen": "abc",
        "cases": 40,
        **values,
    }


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    found = [row(arm, draw, dice + draw) for arm, dice in ARMS.items() for draw in (1, 2)]
    return [*found, row("supervised", 1, 84.0, labels=32), row("ceiling", 1, 86.0, labels=160)]


def test_rows_of_one_split_are_read_from_a_folder(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    planned = {**rows[0], "network": "PlainConvUNet", "teacher": "another"}
    for number, of_row in enumerate([*rows, {**rows[0], "split": "development"}, planned]):
        (tmp_path / f"{number}.json").write_text(json.dumps(of_row))
    assert read_rows(tmp_path, "test") == rows
    assert read_rows(tmp_path, "test", network="plans") == [planned]
    with pytest.raises(ValueError, match="no finished run of split 'test'"):
        read_rows(tmp_path / "none", "test")


@pytest.mark.parametrize(("name", "other"), [("teachers", "folds"), ("frozen", "def"), ("cases", 39)])
def test_rows_of_two_kinds_are_not_compared(tmp_path: Path, rows: list[dict[str, Any]], name: str, other: object) -> None:
    # with a number of labels that no other row has: it would stand in the curve beside them
    for number, of_row in enumerate([*rows, {**rows[0], "labels": 16, name: other}]):
        (tmp_path / f"{number}.json").write_text(json.dumps(of_row))
    with pytest.raises(ValueError, match=rf"rows in .* differ in '{name}': .*; keep them in folders of their own"):
        read_rows(tmp_path, "test")


@pytest.mark.parametrize(("name", "length"), [("steps", 2000), ("student_steps", 700)])
def test_rows_of_other_lengths_are_not_compared(tmp_path: Path, rows: list[dict[str, Any]], name: str, length: int) -> None:
    students = [{**of_row, "student_steps": 1500} for of_row in rows]
    for number, of_row in enumerate([*students, {**students[0], "draw": 3, name: length}]):
        (tmp_path / f"{number}.json").write_text(json.dumps(of_row))
    with pytest.raises(ValueError, match=rf"rows in .* differ in '{name}': \[{length}, \d+\]; keep them"):
        read_rows(tmp_path, "test")


def test_the_teacher_stands_beside_longer_trainings(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    for number, of_row in enumerate([*rows, {**row("teacher", 1, 80.0), "steps": 1500}]):
        (tmp_path / f"{number}.json").write_text(json.dumps(of_row))
    assert len(read_rows(tmp_path, "test")) == len(rows) + 1


def test_a_table_has_the_columns_of_all_rows(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    write_table(tmp_path / "runs.csv", [rows[0], {**rows[1], "python": "3.13"}])
    with (tmp_path / "runs.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [line["python"] for line in table] == ["", "3.13"]
    assert [float(line["dice"]) for line in table] == [81.0, 82.0]


def test_every_metric_is_compared_with_the_better_control(rows: list[dict[str, Any]]) -> None:
    found = comparison(rows, control=BETTER, split="test")
    assert {summary.metric for summary in found} == {"dice", "dice_anterior", "surface_dice_anterior", "hd95_mm_anterior"}
    (ours,) = (s for s in found if (s.arm, s.labels, s.metric) == ("ours", 8, "dice"))
    # 83 and 84 against 82 and 83; the ceiling lies 3.5 above the control's mean
    assert (ours.mean, ours.control_mean, ours.difference, ours.draws) == (83.5, 82.5, 1.0, (1, 2))
    assert ours.gap_closed == pytest.approx(1 / 3.5)
    line = as_text(ours)
    assert "difference +1.00 (+1.00 to +1.00)" in line
    assert line.endswith("of the gap to the ceiling 0.29")  # two draws are too few for a bootstrap
    many = [row(arm, draw, dice + draw / 10) for arm, dice in ARMS.items() for draw in range(6)] + rows[-1:]
    (ours,) = (s for s in comparison(many, control=BETTER, split="test") if (s.arm, s.labels, s.metric) == ("ours", 8, "dice"))
    assert as_text(ours).endswith("of the gap to the ceiling 0.21 (0.20 to 0.22)")
    (alone,) = (s for s in comparison(rows[1::2], control="supervised", split="test") if (s.arm, s.labels, s.metric) == ("ours", 8, "dice"))
    assert as_text(alone).endswith("difference +2.00 (no interval)  of the gap to the ceiling 0.50")
    (ceiling,) = (s for s in found if (s.arm, s.metric) == ("ceiling", "dice"))
    assert as_text(ceiling).endswith("mean  86.00")


def test_a_line_names_its_draws(rows: list[dict[str, Any]]) -> None:
    without = [of_row for of_row in rows if (of_row["arm"], of_row["draw"]) != ("supervised", 2)]
    lines = {}
    for control in controls_of(without):
        (ours,) = (s for s in comparison(without, control=control, split="test") if (s.arm, s.labels, s.metric) == ("ours", 8, "dice"))
        lines[control] = " ".join(as_text(ours).split()).split(" mean ")[0].split("ours ")[1]
    assert lines == {"supervised": "draw 1", "supervised_continued": "draws 1 2", BETTER: "draw 1"}


def test_without_a_draw_of_both_there_is_no_better_control(rows: list[dict[str, Any]]) -> None:
    kept = [of_row for of_row in rows if (of_row["arm"], of_row["draw"]) in (("supervised", 1), ("supervised_continued", 2))]
    assert controls_of(kept) == ["supervised", "supervised_continued"]
    assert controls_of(kept[:1]) == ["supervised"]


def test_figures_are_written(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    written, waiting = write_figures(tmp_path / "figures", rows, split="test", budget=8)
    assert not waiting
    assert [path.name for path in written] == ["benchmark_pairs.svg", "benchmark_worth_8_labels.svg"]
    assert "mean +1.00" in written[0].read_text()
    assert "83.5" in written[1].read_text()
    assert "supervised_continued" in written[1].read_text()


def test_one_figure_does_not_wait_for_the_other(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    written, waiting = write_figures(tmp_path, [of_row for of_row in rows if of_row["labels"] == 8], split="test", budget=8)
    assert [path.name for path in written] == ["benchmark_pairs.svg"]
    assert len(waiting) == 1
    assert waiting[0].startswith("benchmark_worth_8_labels.svg: 2 runs of 'ours' with 8 labels, supervised results with [8] labels")
    assert [path.name for path in tmp_path.iterdir()] == ["benchmark_pairs.svg"]
