"""The benchmark's two figures: paired lines from the control to ours, and how many labels our result is worth."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from paired_draws import (
    Row,
    Summary,
    Values,
    label_equivalent,
    label_equivalent_range,
    on_shared_draws,
    smaller_is_better,
    summarise,
    supervised_curve,
    values_by_arm,
)

from nnunet_ssl.data.files import replacing
from nnunet_ssl.report.figure_style import BLUE, GREY, ORANGE, figure_style, plain

_METRIC_NAMES = {"dice": "Dice (%)", "surface_dice": "surface Dice at 1 mm (%)", "hd95_mm": "HD95 (mm)"}


def paired_lines(rows: Sequence[Row], *, control: str, ours: str, split: str = "test", metric: str = "dice") -> Figure:
    """One panel per label budget; in it one line per draw from the control to ours, and a thick one between the means.

    Blue lines get better, orange ones worse. A panel's title has the mean difference and its 95 % interval.

    Raises:
        ValueError: if the two arms share no draw at any budget, or as in `summarise`.
    """
    values = values_by_arm(rows, split=split, metric=metric)
    found = [s for s in summarise(rows, control=control, split=split, metric=metric) if s.arm == ours and math.isfinite(s.difference)]
    if not found:
        raise ValueError(f"{control!r} and {ours!r} share no draw in split {split!r}")
    figure = Figure(figsize=(0.6 + 2.5 * len(found), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for ax, summary in zip(panels, found, strict=True):
        _pairs(ax, values[summary.labels, control], values[summary.labels, ours], summary)
        ax.set_xticks([0, 1], [textwrap.fill(plain(arm), 18) for arm in (control, ours)])
        ax.set_xlim(-0.35, 1.35)
        ax.grid(axis="x", visible=False)
    panels[0].set_ylabel(_axis_name(metric))
    return figure


def _pairs(ax: Axes, control: Values, ours: Values, summary: Summary) -> None:
    sign = -1 if smaller_is_better(summary.metric) else 1
    for draw in sorted(control.keys() & ours.keys()):
        ends = [control[draw], ours[draw]]
        colour = BLUE if sign * (ends[1] - ends[0]) >= 0 else ORANGE
        ax.plot([0, 1], ends, "o-", color=colour, alpha=0.7, linewidth=1.2, markersize=3.5, label=f"draw {draw}")
    means, ink = [summary.control_mean, summary.mean], matplotlib.rcParams["text.color"]
    ax.plot([0, 1], means, "o-", color=ink, linewidth=2.8, markersize=6, label="mean")
    for x, mean, side in zip((0, 1), means, ("right", "left"), strict=True):
        ax.annotate(f"{mean:.1f}", (x, mean), xytext=(8 * (2 * x - 1), 0), textcoords="offset points", ha=side, va="center")
    interval = f"\n95 %: {summary.low:+.2f} to {summary.high:+.2f}" if math.isfinite(summary.low) else "\none draw, no interval"
    ax.set_title(f"{summary.labels} labels, {_draws(len(summary.draws))}\nmean {summary.difference:+.2f}{interval}")


def worth_in_labels(
    rows: Sequence[Row],
    *,
    supervised: Sequence[str],
    ours: str,
    beside: str = "",
    budget: int = 8,
    split: str = "test",
    metric: str = "dice",
) -> Figure:
    """Supervised results over the number of labels, and where the curve reaches our result with few of them.

    At that number of labels the curve, ours and the arm beside are those of the draws that all of them have.

    Args:
        rows: the runs.
        supervised: arms that make up the curve, such as the control and the ceiling.
        ours: arm to read off.
        beside: arm with as many labels to mark, if it has runs: a second start and a moving average, which the curve's runs do without,
            may be worth labels, too.
        budget: its number of labels.
        split: rows of other splits are left out.
        metric: column to draw; larger must be better.

    Raises:
        ValueError: if there is no run of ours with this many labels on a draw that all have, fewer than two points on the curve, or the
            metric is a distance.
    """
    rows = on_shared_draws(rows, (*supervised, ours, beside), labels=budget, split=split)
    values, curve = values_by_arm(rows, split=split, metric=metric), supervised_curve(rows, arms=supervised, split=split, metric=metric)
    own = list(values.get((budget, ours), {}).values())
    if not own or len(curve) < 2 or smaller_is_better(metric):
        raise ValueError(f"{len(own)} runs of {ours!r} with {budget} labels, supervised results with {sorted(curve)} labels, {metric}")
    figure = Figure(figsize=(6.2, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    for (labels, arm), runs in values.items():
        if arm in supervised:
            ax.plot([labels] * len(runs), list(runs.values()), "o", color=GREY, alpha=0.5, markersize=3.5, label=f"{labels} labels, runs")
    ax.plot(list(curve), list(curve.values()), "o-", color=GREY, linewidth=2, markersize=6, label="supervised")
    if runs_beside := values.get((budget, beside)):
        ax.plot([budget], [np.mean(list(runs_beside.values()))], "o", color=ORANGE, markersize=7, label=plain(beside))
    by_labels = {labels: runs for (labels, arm), runs in values.items() if arm in supervised}
    low, high = label_equivalent_range(values[(budget, ours)], by_labels, budget=budget)
    _read_off(ax, own, curve, budget, f" (by draws {low.short} to {high.short})" if len(own) > 1 else "")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(sorted({*curve, budget})))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(lambda labels, _: f"{labels:.0f}")
    ax.set_xlabel("labelled cases")
    ax.set_ylabel(_axis_name(metric))
    named = ("supervised", "ours", plain(beside))
    ax.legend(handles=[line for line in ax.get_lines() if line.get_label() in named], loc="lower right")
    return figure


def _read_off(ax: Axes, own: Sequence[float], curve: dict[int, float], budget: int, chance: str) -> None:
    """Our mean, a line to where the curve reaches it, and from there down to the axis; `chance` says how far the reading holds."""
    mean = float(np.mean(own))
    worth = label_equivalent(mean, curve)
    ax.plot([budget] * len(own), own, "o", color=BLUE, alpha=0.5, markersize=3.5, label="our runs")
    ax.plot([budget, worth.labels], [mean, mean], linestyle=(0, (4, 3)), color=BLUE, label="read off")
    if worth.bound == "about":
        bottom = ax.get_ylim()[0]
        ax.plot([worth.labels, worth.labels], [mean, bottom], linestyle=(0, (4, 3)), color=BLUE, label="down")
        ax.annotate(f"{worth.labels:.0f}", (worth.labels, bottom), xytext=(4, 4), textcoords="offset points", color=BLUE)
        ax.set_ylim(bottom=bottom)
    ax.plot([budget], [mean], "o", color=BLUE, markersize=7, label="ours")
    ax.set_title(f"Ours with {budget} labels ({_draws(len(own))}): {mean:.1f}, worth {worth}{chance}")


def _draws(count: int) -> str:
    return "1 draw" if count == 1 else f"{count} draws"


def _axis_name(metric: str) -> str:
    """Name and unit of a metric's column, with the class if it is one's."""
    name = max((name for name in _METRIC_NAMES if metric.startswith(name)), key=len, default=None)
    if name is None:
        return plain(metric)
    of_class = metric.removeprefix(name).lstrip("_")
    return _METRIC_NAMES[name] + (f", {plain(of_class)}" if of_class else ", mean of the classes")


def write_svg(path: Path, draw: Callable[[], Figure], *, description: str) -> None:
    """Draw a figure in the report's style and write it as an SVG file, whole or not at all; the same figure gives the same bytes.

    Args:
        path: the file.
        draw: makes the figure; called with the style in force.
        description: what can be seen, for those who cannot.
    """
    with figure_style(), replacing(path) as temporary:
        # white behind it: a file cannot take over the text colour of the page that shows it
        draw().savefig(temporary, format="svg", facecolor="white", metadata={"Title": description, "Date": None})
