"""The figures of a run: training curves over all models, and the distribution of the case scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from nnunet_ssl.data.ranking_file import RankingLine
from nnunet_ssl.report.collect import RunFacts
from nnunet_ssl.report.figure_style import GREY, SERIES, plain, stage_colour
from nnunet_ssl.report.training_log import TrainingLog

_PANELS: tuple[tuple[str, dict[str, str]], ...] = (
    ("Loss", {"train_losses": "training", "val_losses": "validation"}),
    ("Terms of the student's loss", {"loss_supervised": "L_sup", "loss_high": "L_high", "loss_low": "R_low"}),
    ("Loss of the uncertainty head", {"loss_uncertainty": "uncertainty"}),
    ("Share of confident pool voxels", {"confident_share": "confident"}),
)
"""Title, and the logged values shown by their names in the legend; what no model has logged is left out."""
_FEW_EPOCHS = 40
_BINS = 20
_NAMED = len(SERIES) - 1
"""Classes that have a colour of their own; the first colour is the mean's."""
_LETTER = 0.016
"""Share of an axis' width that a letter of a model's name takes."""
_TITLE_PAD = 17
"""Points above the axes, for the names of the models below it."""


def training_curves(facts: RunFacts) -> Figure:
    """Losses and pseudo Dice over the epochs of teacher and students, one after another, with the borders between them."""
    logs = [model.log for model in facts.models if model.log is not None]
    names = [model.log_name if model.stage == 0 else f"stage {model.stage}" for model in facts.models if model.log is not None]
    panels = [panel for panel in _PANELS if any(_has(log, key) for log in logs for key in panel[1])]
    figure, axes = _grid(len(panels) + 1, columns=2)
    where = "on training labels" if facts.is_final_mode else "on validation patches"
    _pseudo_dice(axes[0], logs, facts.class_names, f"Pseudo Dice {where}")
    for ax, (title, keys) in zip(axes[1:], panels, strict=True):
        ax.set_title(title, pad=_TITLE_PAD)
        for colour, (key, label) in zip(SERIES, keys.items(), strict=False):
            name = "nnU-Net's validation, on training labels" if key == "val_losses" and facts.is_final_mode else label
            _curve(ax, [log.values.get(key, ()) for log in logs], logs, name, color=colour)
        if len(keys) > 1:
            _legend(ax)
    for ax in axes:
        _borders(ax, [log.num_epochs for log in logs], names)
    return figure


def _pseudo_dice(ax: Axes, logs: Sequence[TrainingLog], class_names: Sequence[str], title: str) -> None:
    ax.set_title(title, pad=_TITLE_PAD)
    ax.set_ylim(-0.02, 1.02)
    if len(class_names) > 1:
        for index, name in enumerate(class_names):
            series = [log.class_dice[index] if index < len(log.class_dice) else () for log in logs]
            if index < _NAMED:
                _curve(ax, series, logs, name, color=SERIES[1 + index], linewidth=1)
            else:
                label = _unnamed(len(class_names) - _NAMED) if index == _NAMED else ""
                _curve(ax, series, logs, label, color=GREY, linewidth=0.5, zorder=1.5)
    _curve(ax, [log.values.get("mean_fg_dice", ()) for log in logs], logs, "mean", color=SERIES[0], linewidth=2.2)
    if len(class_names) > 1:
        _legend(ax, ncols=2)


def _unnamed(count: int) -> str:
    return f"{count} more class{'es' if count > 1 else ''}: epochs.csv"


def _legend(ax: Axes, ncols: int = 1) -> None:
    """Where it hides least, on a ground through which the curves are seen."""
    ax.legend(loc="best", ncols=ncols, frameon=True, edgecolor="none", framealpha=0.8)


def _curve(ax: Axes, series: Sequence[Sequence[float]], logs: Sequence[TrainingLog], label: str, **style: Any) -> None:
    """One quantity over all models; the line is broken where one model ends."""
    x: list[float] = []
    y: list[float] = []
    start = 0
    for values, log in zip(series, logs, strict=True):
        x += [*(start + epoch + 1.0 for epoch in range(len(values))), math.nan]
        y += [*values, math.nan]
        start += log.num_epochs
    measured = sum(math.isfinite(value) for value in y)
    ax.plot(x, y, label=plain(label) if label else None, marker="o" if measured <= _FEW_EPOCHS else None, markersize=3, **style)


def _has(log: TrainingLog, key: str) -> bool:
    return any(map(math.isfinite, log.values.get(key, ())))


def _borders(ax: Axes, lengths: Sequence[int], names: Sequence[str]) -> None:
    """A vertical line after each model and its name above its epochs."""
    total, start = max(1, sum(lengths)), 0
    ax.set_xlim(0.5 - 0.01 * total, total + 0.5 + 0.01 * total)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    for length, name in zip(lengths, names, strict=True):
        if start:
            ax.axvline(start + 0.5, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
        has_room = length / total > _LETTER * len(name)
        short = name if has_room else "T" if name.startswith("teacher") else name.removeprefix("stage ")
        position = (start + 0.5 + length / 2, 1.01)
        ax.annotate(short, position, xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=7.5, color=GREY)
        start += length


def case_scores(facts: RunFacts) -> Figure:
    """Histogram and sorted curve of every case score (Fig. 6 of the paper), coloured by the stage at which a case enters."""
    names = [name for name in facts.ranking[0].scores if any(case.scores[name] is not None for case in facts.ranking)]
    figure = Figure(figsize=(3.4 * max(2, len(names)), 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, max(1, len(names)), squeeze=False)
    for (upper, lower), name in zip(axes.T, names, strict=False):
        cases = sorted((case for case in facts.ranking if case.scores[name] is not None), key=lambda case: case.scores[name] or 0.0)
        values = np.array([case.scores[name] for case in cases], dtype=float)
        groups = _by_stage(cases, facts.num_stages)
        ranks = name == facts.ranking_score and not facts.is_random
        upper.set_title(plain(f"{name} (ranks the pool)" if ranks else name))
        _histogram(upper, values, groups)
        for _, colour, members in groups:
            lower.plot(np.flatnonzero(members) + 1, values[members], "o", color=colour, markersize=4 if len(values) <= 100 else 2.5)
        lower.set_xlabel("case, by this score")
    axes[0, 0].set_ylabel("cases")
    axes[1, 0].set_ylabel("score")
    _stage_legend(figure, _by_stage(facts.ranking, facts.num_stages))
    return figure


def _histogram(ax: Axes, values: np.ndarray[Any, np.dtype[np.float64]], groups: Sequence[tuple[str, str, Any]]) -> None:
    low, high = values.min(), values.max()
    margin = max(0.02 * (high - low), 0.002)
    edges = np.linspace(low - margin, high + margin, min(_BINS, max(5, len(values) // 2)) + 1)
    ax.hist([values[members] for _, _, members in groups], bins=edges.tolist(), color=[colour for _, colour, _ in groups], stacked=True)
    ax.axvline(values.mean(), color=matplotlib.rcParams["text.color"], linewidth=1.4, linestyle=(0, (4, 3)))
    ax.text(0.02, 0.98, f"mean {values.mean():.3f}", transform=ax.transAxes, va="top", fontsize=8)
    ax.set_ylim(top=ax.get_ylim()[1] * 1.15)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    ax.set_xlabel("score")


def _by_stage(cases: Sequence[RankingLine], num_stages: int) -> list[tuple[str, str, np.ndarray[Any, np.dtype[np.bool_]]]]:
    """Name, colour and members (boolean, one per case) of each stage that a case enters at, then of those that wait."""
    entered = np.array([case.stage or 0 for case in cases])
    groups = [(f"enters at stage {s}", stage_colour(s, num_stages), entered == s) for s in range(1, num_stages + 1)]
    groups.append(("not yet chosen", GREY, entered == 0))
    return [group for group in groups if group[2].any()]


def _stage_legend(figure: Figure, groups: Sequence[tuple[str, str, Any]]) -> None:
    handles = [Line2D([], [], color=colour, marker="o", linestyle="none") for _, colour, _ in groups]
    figure.legend(handles, [name for name, _, _ in groups], loc="outside lower center", ncols=min(7, len(groups)))


def _grid(count: int, *, columns: int) -> tuple[Figure, list[Axes]]:
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(10, 2.9 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(rows, columns, index + 1) for index in range(count)]
