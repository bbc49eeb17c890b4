"""All finished runs as one table, its comparison with a control, and the figures."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmark_figures import paired_lines, worth_in_labels, write_svg
from case_metrics import METRICS
from draw import TEACHERS
from matplotlib.figure import Figure
from paired_draws import Row, Summary, summarise, with_better_of

SUPERVISED = ("supervised", "supervised_continued")
"""The two controls."""
BETTER = "better_control"
"""The one of the two with the larger mean Dice at a label budget: what the main table compares with."""
CEILING = "ceiling"
ALIKE = ("teachers", "frozen")
"""What all rows of a folder have in common: how many teachers there are, which sets the steps of a control, and the commit."""
BOOTSTRAP_DRAWS = 6
"""From how many draws on the bootstrap interval of the gap is printed. Of six draws it covers about 85 % in simulated tables where 95 % are
meant, of fewer far less."""
OURS = "TransASPPUNet"


def rows_parser(description: str | None, *, beside: str) -> argparse.ArgumentParser:
    """The command line of what looks at finished runs of one split, number of labels and network.

    Args:
        description: of the script.
        beside: what it reads besides the rows.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, help=f"folder of rows and {beside} of finished runs")
    parser.add_argument("--split", default="test", choices=("test", "development"))
    parser.add_argument("--labels", type=int, default=4)
    parser.add_argument("--network", default=OURS, choices=list(TEACHERS))
    return parser


def read_rows(folder: Path, split: str, *, network: str = OURS) -> list[dict[str, Any]]:
    """As `rows_by_path`, without the paths."""
    return list(rows_by_path(folder, split, network=network).values())


def rows_by_path(folder: Path, split: str, *, network: str = OURS) -> dict[Path, dict[str, Any]]:
    """The rows of a split that finished runs of one network have left in a folder, by the files that they lie in.

    Args:
        folder: where they lie.
        split: whose rows.
        network: `TransASPPUNet`, or `plans` for any that nnU-Net has planned.

    Raises:
        ValueError: if there are none, arms of one draw started from different teachers, so that their differences would not be paired, or
            rows are not of one kind (`ALIKE`) and length, or evaluated different numbers of test cases.
    """
    found = {path: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    by_path = {path: row for path, row in found.items() if row["split"] == split and (row["network"] == OURS) == (network == OURS)}
    rows = list(by_path.values())
    if not rows:
        raise ValueError(f"no finished run of split {split!r} and network {network!r} in {folder}")
    for name in ALIKE:
        _require_one_value(rows, name, folder)
    # the teacher stands beside longer trainings, and arms without students have no steps of theirs
    _require_one_value([row for row in rows if row["arm"] != "teacher"], "steps", folder)
    _require_one_value([row for row in rows if row.get("student_steps")], "student_steps", folder)
    if split == "test":  # of the development cases a draw leaves out those that it has among its labels
        _require_one_value(rows, "cases", folder)
    teachers: dict[tuple[int, int], dict[str, list[str]]] = {}
    for row in rows:
        if row["teacher"]:
            teachers.setdefault((row["labels"], row["draw"]), {}).setdefault(row["teacher"], []).append(row["arm"])
    for (labels, draw), of_draw in teachers.items():
        if len(of_draw) > 1:
            arms = " and ".join("/".join(arms) for arms in of_draw.values())
            raise ValueError(
                f"{labels} labels, draw {draw}: {arms} started from different teachers; remove the rows of one and drain again"
            )
    return by_path


def _require_one_value(rows: Sequence[Row], name: str, folder: Path) -> None:
    """Rows of one number of labels are compared, and those of all numbers make one curve."""
    found = {row[name] for row in rows}
    if len(found) > 1:
        raise ValueError(f"rows in {folder} differ in {name!r}: {sorted(found)}; keep them in folders of their own")


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """A CSV with a column for everything that any row says."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def controls_of(rows: Sequence[Row]) -> list[str]:
    """The supervised controls that have run, and the better of them if both have a draw in common."""
    ran = {row["arm"] for row in with_better_of(rows, SUPERVISED, name=BETTER)}
    return [arm for arm in (*SUPERVISED, BETTER) if arm in ran]


def comparison(rows: Sequence[Row], *, control: str, split: str) -> list[Summary]:
    """Every arm against a control, by Dice and by the mean of every other metric of the rows.

    Args:
        rows: of finished runs.
        control: an arm, or `BETTER`.
        split: whose rows.
    """
    rows = with_better_of(rows, SUPERVISED, name=BETTER)
    ceiling = CEILING if any(row["arm"] == CEILING for row in rows) else None
    metrics = [name for name in rows[0] if name.startswith(METRICS)]
    return [found for metric in metrics for found in summarise(rows, control=control, ceiling=ceiling, split=split, metric=metric)]


def as_text(found: Summary) -> str:
    """A line of the comparison."""
    draws = f"draw{'s' * (len(found.draws) > 1)} {' '.join(map(str, found.draws))}"
    line = f"{found.metric:24} {found.labels:3} labels  {found.arm:24} {draws:17}  mean {found.mean:6.2f}"
    if found.difference == found.difference:
        interval = f"{found.low:+.2f} to {found.high:+.2f}" if len(found.draws) > 1 else "no interval"
        line += f"  control {found.control_mean:6.2f}  difference {found.difference:+.2f} ({interval})"
    if found.gap_closed == found.gap_closed:
        ends = f" ({found.gap_low:.2f} to {found.gap_high:.2f})" if len(found.draws) >= BOOTSTRAP_DRAWS else ""
        line += f"  of the gap to the ceiling {found.gap_closed:.2f}{ends}"
    return line


def write_figures(folder: Path, rows: Sequence[Row], *, split: str, budget: int) -> tuple[list[Path], list[str]]:
    """The two figures of the benchmark, as SVG files; each as soon as its rows are there.

    Args:
        folder: where to.
        rows: of finished runs.
        split: whose rows.
        budget: number of labels whose result is read off the supervised curve.

    Returns:
        The files, and what the other figures wait for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with_better = with_better_of(rows, SUPERVISED, name=BETTER)
    curve = ("supervised", CEILING)
    figures: dict[str, tuple[Callable[[], Figure], str]] = {
        "benchmark_pairs.svg": (
            lambda: paired_lines(with_better, control=BETTER, ours="ours", split=split),
            "Dice of the better supervised control and of the method, a line per draw of labelled cases",
        ),
        f"benchmark_worth_{budget}_labels.svg": (
            lambda: worth_in_labels(rows, supervised=curve, ours="ours", beside="supervised_continued", budget=budget, split=split),
            "Dice of supervised training over the number of labelled cases, and the number that the method's result is worth",
        ),
    }
    written, waiting = [], []
    for name, (draw, description) in figures.items():
        try:
            write_svg(folder / name, draw, description=description)
            written.append(folder / name)
        except ValueError as error:
            waiting.append(f"{name}: {error}")
    return written, waiting
