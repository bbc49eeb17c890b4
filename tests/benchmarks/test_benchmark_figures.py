"""What the benchmark's figures draw, from made-up rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from benchmark_figures import paired_lines, worth_in_labels, write_svg
from matplotlib.axes import Axes
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from paired_draws import Row

from nnunet_ssl.report.figure_style import BLUE, ORANGE


def runs(arm: str, labels: int, dice: Sequence[float], metric: str = "dice") -> list[Row]:
    return [{"draw": d, "labels": labels, "arm": arm, "split": "test", metric: value} for d, value in enumerate(dice)]


ROWS = [
    *(*runs("control", 4, [80, 82]), *runs("ours", 4, [83, 81])),
    *(*runs("control", 8, [82, 83, 84]), *runs("ours", 8, [84, 84.5, 86.5])),
    *(*runs("control", 32, [85]), *runs("ceiling", 160, [87])),
]


def lines(ax: Axes) -> dict[str, Any]:
    return {
        str(line.get_label()): (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()) for line in ax.get_lines()
    }


def test_a_line_for_every_draw_from_the_control_to_ours() -> None:
    figure = paired_lines(ROWS, control="control", ours="ours")
    four, eight = figure.axes
    assert lines(four) == {"draw 0": ([0, 1], [80, 83]), "draw 1": ([0, 1], [82, 81]), "mean": ([0, 1], [81, 82])}
    assert lines(eight) == {
        **{"draw 0": ([0, 1], [82, 84]), "draw 1": ([0, 1], [83, 84.5]), "draw 2": ([0, 1], [84, 86.5])},
        "mean": ([0, 1], [83, 85]),
    }


def test_a_panel_says_what_it_shows() -> None:
    four, eight = paired_lines(ROWS, control="control", ours="ours").axes
    assert [label.get_text() for label in eight.get_xticklabels()] == ["control", "ours"]
    assert four.get_ylabel() == "Dice (%), mean of the classes"
    # differences 2, 1.5 and 2.5: standard error 0.5 / sqrt 3, times 4.302653
    assert titles(eight) == ["8 labels, 3 draws\nmean +2.00\n95 %: +0.76 to +3.24"]
    assert [text.get_text() for text in eight.texts] == ["83.0", "85.0"]


def titles(ax: Axes) -> list[str]:
    return [ax.get_title(loc) for loc in ("left", "center", "right") if ax.get_title(loc)]


@pytest.mark.parametrize(("metric", "of_more"), [("dice", BLUE), ("hd95_mm_anterior", ORANGE)])
def test_colours_tell_better_from_worse(metric: str, of_more: str) -> None:
    rows = [*runs("control", 8, [3, 3], metric), *runs("ours", 8, [4, 2], metric)]
    (ax,) = paired_lines(rows, control="control", ours="ours", metric=metric).axes
    more, less, _ = ax.get_lines()
    assert same_color(more.get_color(), of_more)
    assert same_color(less.get_color(), ({BLUE, ORANGE} - {of_more}).pop())


def test_a_distance_of_one_class_names_its_unit_and_the_class() -> None:
    rows = [*runs("control", 8, [3, 3], "hd95_mm_anterior"), *runs("ours", 8, [4, 2], "hd95_mm_anterior")]
    (ax,) = paired_lines(rows, control="control", ours="ours", metric="hd95_mm_anterior").axes
    assert ax.get_ylabel() == "HD95 (mm), anterior"


def test_without_a_shared_draw_there_is_no_figure() -> None:
    with pytest.raises(ValueError, match="share no draw"):
        paired_lines([*runs("control", 8, [80]), *runs("ours", 4, [80])], control="control", ours="ours")


def test_our_result_is_read_off_the_supervised_curve() -> None:
    # ours with 8 labels: 84 on average, on the way from 82 with 8 to 86 with 32
    rows = [*runs("control", 8, [81, 83]), *runs("control", 32, [86]), *runs("ceiling", 160, [87]), *runs("ours", 8, [83, 85])]
    (ax,) = worth_in_labels(rows, supervised=["control", "ceiling"], ours="ours").axes
    found = lines(ax)
    assert found["supervised"] == ([8, 32, 160], [82, 86, 87])
    assert found["8 labels, runs"] == ([8, 8], [81, 83])
    assert found["our runs"] == ([8, 8], [83, 85])
    assert found["ours"] == ([8], [84])
    assert found["read off"] == ([8, pytest.approx(16)], [84, 84])
    assert found["down"] == ([pytest.approx(16)] * 2, [84, ax.get_ylim()[0]])
    assert ax.get_ylim()[0] < 81
    assert titles(ax) == ["Ours with 8 labels (2 draws): 84.0, worth about 16 labels (by draws 14 to 20)"]


def test_what_is_read_off_is_of_the_draws_that_all_have() -> None:
    # on the only draw of all three ours is 1.5 behind; its second draw is an easy one
    rows = [*runs("control", 8, [81]), *runs("control", 32, [86]), *runs("ours", 8, [79.5, 99]), *runs("beside", 8, [80, 99])]
    (ax,) = worth_in_labels(rows, supervised=["control"], ours="ours", beside="beside").axes
    assert titles(ax) == ["Ours with 8 labels (1 draw): 79.5, worth fewer than 8 labels"]
    assert lines(ax)["beside"] == ([8], [80])


def test_the_axis_counts_labels_on_a_logarithmic_scale() -> None:
    figure = worth_in_labels(ROWS, supervised=["control", "ceiling"], ours="ours")
    (ax,) = figure.axes
    figure.canvas.draw()
    assert ax.get_xscale() == "log"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["4", "8", "32", "160"]
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["supervised", "ours"]


@pytest.mark.parametrize(("dice", "end", "said"), [(88, 160, "more than 160 labels"), (79, 8, "fewer than 8 labels")])
def test_beyond_the_curve_only_a_bound_is_drawn(dice: float, end: int, said: str) -> None:
    rows = [*runs("control", 8, [82]), *runs("ceiling", 160, [87]), *runs("ours", 8, [dice])]
    (ax,) = worth_in_labels(rows, supervised=["control", "ceiling"], ours="ours").axes
    assert lines(ax)["read off"] == ([8, end], [dice, dice])
    assert "down" not in lines(ax)
    assert titles(ax) == [f"Ours with 8 labels (1 draw): {dice:.1f}, worth {said}"]


def test_nothing_to_read_off_is_refused() -> None:
    with pytest.raises(ValueError, match="0 runs of 'ours' with 16 labels"):
        worth_in_labels(ROWS, supervised=["control"], ours="ours", budget=16)
    with pytest.raises(ValueError, match="hd95_mm"):
        worth_in_labels(runs("control", 8, [3], "hd95_mm"), supervised=["control"], ours="control", metric="hd95_mm")


def test_a_file_is_the_same_every_time_and_says_what_it_shows(tmp_path: Path) -> None:
    def draw() -> Figure:
        return paired_lines(ROWS, control="control", ours="ours")

    for name in ("one.svg", "two.svg"):
        write_svg(tmp_path / name, draw, description="ours above the control in 4 of 5 draws")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    root = ElementTree.parse(tmp_path / "one.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.findtext("{http://www.w3.org/2000/svg}title") == "ours above the control in 4 of 5 draws"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.svg", "two.svg"]
