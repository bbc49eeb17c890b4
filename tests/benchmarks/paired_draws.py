"""Statistics of the benchmark, whose unit is the draw: the same labelled cases for every arm, so that differences are paired.

Rows are runs, as in `runs.csv`: columns `draw`, `labels` (how many cases are labelled), `arm`, `split`, `steps`, `dice`, `dice_<class>`,
`surface_dice_<class>`, `hd95_mm_<class>`, `seconds` and `commit`. Values may be text, as a CSV reader leaves them. Test cases are averaged
inside a run: they share one training, so that counting them as independent would make every interval too narrow.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 10_000
LABEL_RESAMPLES = 2000

Row = Mapping[str, Any]
Array = np.ndarray[Any, np.dtype[np.float64]]
Values = dict[int, float]
"""One value per draw."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One arm at one label budget, against the control at the same budget on the same draws; NaN where there is nothing to say."""

    labels: int
    arm: str
    metric: str
    draws: tuple[int, ...]
    """Draws that both the arm and the control have; for the control itself, and where no draw is shared, the arm's own."""
    mean: float
    """Over these draws, like `control_mean`, so that `difference` is the difference of the two."""
    control_mean: float
    difference: float
    low: float
    """Ends of the t interval of the mean paired difference."""
    high: float
    gap_closed: float
    """(arm - control) / (ceiling - control) of the means: 0 is the control, 1 the ceiling."""
    gap_low: float
    """Ends of its bootstrap interval; infinite where the draws do not show that the ceiling lies above the control."""
    gap_high: float


@dataclass(frozen=True, kw_only=True)
class LabelEquivalent:
    """How many labelled cases supervised training needs for a result."""

    labels: float
    bound: Literal["about", "fewer than", "more than"]
    """Outside the measured curve only a bound can be said, and `labels` is the end of the curve."""

    def __str__(self) -> str:
        return f"{self.bound} {self.labels:.0f} labels"

    @property
    def short(self) -> str:
        """The number, with a sign where it is a bound."""
        return {"about": "", "fewer than": "<", "more than": ">"}[self.bound] + f"{self.labels:.0f}"


def read_runs(path: Path) -> list[dict[str, str]]:
    """The rows of a `runs.csv`."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def values_by_arm(rows: Sequence[Row], *, split: str, metric: str) -> dict[tuple[int, str], Values]:
    """One value per draw for each label budget and arm, sorted by all three.

    Raises:
        ValueError: if two runs claim the same draw, or a run has no value of the metric: leaving it out would choose among the draws.
    """
    found: dict[tuple[int, str], Values] = {}
    for row in rows:
        if row["split"] != split:
            continue
        labels, arm, draw = int(row["labels"]), str(row["arm"]), int(row["draw"])
        text = row.get(metric)
        value = math.nan if text in (None, "") else float(text)
        if not math.isfinite(value):
            raise ValueError(f"{arm}, {labels} labels, draw {draw}, {split}: {metric} is {text!r}; evaluate the run again or drop its row")
        values = found.setdefault((labels, arm), {})
        if draw in values:
            raise ValueError(f"{arm}, {labels} labels, {split}: two rows for draw {draw}; keep one")
        values[draw] = value
    return {key: dict(sorted(found[key].items())) for key in sorted(found)}


def summarise(
    rows: Sequence[Row], *, control: str, ceiling: str | None = None, split: str = "test", metric: str = "dice", seed: int = 0
) -> list[Summary]:
    """One summary for every label budget and arm.

    Args:
        rows: the runs.
        control: arm that the others are compared with.
        ceiling: arm trained with all labels. Its runs belong to no draw of labelled cases; `gap_closed` needs it.
        split: rows of other splits are left out.
        metric: column to compare.
        seed: of the bootstrap.

    Raises:
        ValueError: if the control or the ceiling has no run in this split, or as in `values_by_arm`.
    """
    values = values_by_arm(rows, split=split, metric=metric)
    for name in (control, ceiling):
        if name is not None and name not in {arm for _, arm in values}:
            raise ValueError(f"no run of arm {name!r} in split {split!r}; there are {sorted({arm for _, arm in values})}")
    top = np.array([value for (_, arm), of_arm in values.items() if arm == ceiling for value in of_arm.values()])
    summaries = []
    for (labels, arm), ours in values.items():
        theirs = {} if arm == control else values.get((labels, control), {})
        draws = sorted(ours.keys() & theirs.keys())
        a, b = (np.array([of_arm[draw] for draw in draws]) for of_arm in (ours, theirs))
        summaries.append(
            Summary(
                labels=labels,
                arm=arm,
                metric=metric,
                draws=tuple(draws or sorted(ours)),
                mean=float(np.mean(a if draws else list(ours.values()))),
                **(_against(a, b, top, metric, seed) if draws else dict.fromkeys(_COMPARED, math.nan)),
            )
        )
    return summaries


_COMPARED = ("control_mean", "difference", "low", "high", "gap_closed", "gap_low", "gap_high")


def smaller_is_better(metric: str) -> bool:
    """Whether the metric is a distance."""
    return metric.startswith("hd95_mm")


def _against(ours: Array, control: Array, ceiling: Array, metric: str, seed: int) -> dict[str, float]:
    low, high = t_interval(ours - control)
    sign = -1 if smaller_is_better(metric) else 1
    gap, gap_low, gap_high = gap_closed(sign * ours, sign * control, sign * ceiling, seed=seed) if len(ceiling) else (math.nan,) * 3
    numbers = (control.mean(), (ours - control).mean(), low, high, gap, gap_low, gap_high)
    return {name: float(number) for name, number in zip(_COMPARED, numbers, strict=True)}


def t_interval(differences: Array) -> tuple[float, float]:
    """Two-sided 95 % interval of the mean of paired differences (n,), by Student's t with n - 1 degrees of freedom; NaN for one."""
    if len(differences) < 2:
        return math.nan, math.nan
    half = stats.t.ppf((1 + LEVEL) / 2, len(differences) - 1) * stats.sem(differences)
    return float(differences.mean() - half), float(differences.mean() + half)


def gap_closed(ours: Array, control: Array, ceiling: Array, *, seed: int = 0) -> tuple[float, float, float]:
    """Which part of the way from the control to the ceiling is gone, with a percentile bootstrap interval over draws.

    A ratio of means, not a mean of ratios, which a single draw with a small gap would rule. Draws are resampled in pairs, the ceiling's
    runs apart from them; a single run of the ceiling counts as exact. A resample in which the ceiling is not above the control says
    nothing about the ratio, and counts as minus infinity for the lower end and as infinity for the upper one.

    Args:
        ours: (n,), one value per draw, larger is better.
        control: (n,), of the same draws.
        ceiling: (m,), its runs.
        seed: of the resampling.

    Returns:
        The ratio (NaN if the ceiling's mean is not above the control's) and the ends of the interval (NaN for a single draw).
    """
    gap = ceiling.mean() - control.mean()
    ratio = float((ours.mean() - control.mean()) / gap) if gap > 0 else math.nan
    if len(ours) < 2:
        return ratio, math.nan, math.nan
    random = np.random.default_rng(seed)
    draws = random.integers(len(ours), size=(RESAMPLES, len(ours)))
    tops = ceiling[random.integers(len(ceiling), size=(RESAMPLES, len(ceiling)))].mean(axis=1)
    gains, gaps = (ours - control)[draws].mean(axis=1), tops - control[draws].mean(axis=1)
    said = gaps > 0
    ratios = np.divide(gains, gaps, out=np.full(RESAMPLES, np.inf), where=said)
    tail = (1 - LEVEL) / 2
    # no interpolation between resamples, since between a number and infinity there is none
    low = np.quantile(np.where(said, ratios, -np.inf), tail, method="lower")
    return ratio, float(low), float(np.quantile(ratios, 1 - tail, method="higher"))


def with_better_of(rows: Sequence[Row], arms: Sequence[str], *, name: str, metric: str = "dice") -> list[Row]:
    """The rows and those of a made-up arm: at each label budget the runs of that arm with the larger mean, on the draws that all have.

    Chosen by the mean and not draw by draw: the larger of two single trainings is larger by chance as well, by 0.40 standard deviations of
    their difference where the arms are equally good.
    """
    runs: dict[tuple[str, int], dict[str, dict[int, Row]]] = {}
    for row in rows:
        if row["arm"] in arms:
            runs.setdefault((str(row["split"]), int(row["labels"])), {}).setdefault(str(row["arm"]), {})[int(row["draw"])] = row
    found: list[Row] = []
    for by_arm in runs.values():
        if len(by_arm) == len(set(arms)):
            draws = sorted(set.intersection(*(set(of_arm) for of_arm in by_arm.values())))
            candidates = [[of_arm[draw] for draw in draws] for of_arm in by_arm.values()]
            best = max(candidates, key=lambda of_arm: sum(float(row[metric]) for row in of_arm))
            found += [{**row, "arm": name} for row in best]
    return [*rows, *found]


def on_shared_draws(rows: Sequence[Row], arms: Sequence[str], *, labels: int, split: str = "test") -> list[Row]:
    """The rows without those of these arms, at one number of labels, on a draw that one of the arms that ran there does not have.

    Means over different draws differ by the draws as well. Rows of other arms, splits and numbers of labels stay as they are.
    """

    def meant(row: Row) -> bool:
        return row["arm"] in arms and row["split"] == split and int(row["labels"]) == labels

    draws: dict[str, set[int]] = {}
    for row in filter(meant, rows):
        draws.setdefault(str(row["arm"]), set()).add(int(row["draw"]))
    shared = set.intersection(*draws.values()) if draws else set()
    return [row for row in rows if not meant(row) or int(row["draw"]) in shared]


def supervised_curve(rows: Sequence[Row], *, arms: Sequence[str], split: str = "test", metric: str = "dice") -> dict[int, float]:
    """Mean over draws by number of labels.

    Args:
        rows: the runs.
        arms: supervised arms that make up the curve, such as the control and the ceiling.
        split: rows of other splits are left out.
        metric: column to read.

    Raises:
        ValueError: if two of the arms have runs with the same number of labels.
    """
    curve: dict[int, float] = {}
    for (labels, arm), values in values_by_arm(rows, split=split, metric=metric).items():
        if arm in arms:
            if labels in curve:
                raise ValueError(f"more than one of {list(arms)} has runs with {labels} labels; name one")
            curve[labels] = float(np.mean(list(values.values())))
    return curve


def label_equivalent(value: float, curve: Mapping[int, float]) -> LabelEquivalent:
    """How many labels are worth a result: the smallest number at which the supervised curve reaches it.

    Between measured points the curve is a straight line over the logarithm of the number of labels. Where chance makes it fall, its first
    crossing counts, which is the least favourable reading.

    Args:
        value: the result, larger is better.
        curve: mean result of supervised training by number of labels.
    """
    points = sorted(curve.items())
    first, last = points[0], points[-1]
    if value <= first[1]:
        return LabelEquivalent(labels=first[0], bound="about" if value == first[1] else "fewer than")
    for (few, below), (many, above) in pairwise(points):
        if value <= above:
            share = (value - below) / (above - below)
            return LabelEquivalent(labels=math.exp((1 - share) * math.log(few) + share * math.log(many)), bound="about")
    return LabelEquivalent(labels=last[0], bound="more than")


def label_equivalent_range(
    ours: Values, curve: Mapping[int, Values], *, budget: int, level: float = LEVEL, seed: int = 0
) -> tuple[LabelEquivalent, LabelEquivalent]:
    """Percentile bootstrap range of `label_equivalent` over the draws of every point, those of our own number of labels in pairs.

    With few draws per point it is too narrow, as such intervals are (see `Summary`): it says how little a reading off a flat curve holds,
    not between which numbers the truth lies.

    Args:
        ours: our results by draw.
        curve: results of supervised training by number of labels, then draw; those with `budget` labels of the same draws as ours.
        budget: our number of labels.
        level: share of the readings inside the range.
        seed: of the resamples.

    Returns:
        Its ends.
    """
    random, own = np.random.default_rng(seed), np.array([ours[draw] for draw in sorted(ours)])
    readings = []
    for _ in range(LABEL_RESAMPLES):
        chosen = random.integers(0, len(own), len(own))
        means = {}
        for labels, by_draw in sorted(curve.items()):
            values = np.array([by_draw[draw] for draw in sorted(by_draw)])
            in_pairs = labels == budget and sorted(by_draw) == sorted(ours)
            means[labels] = float(values[chosen if in_pairs else random.integers(0, len(values), len(values))].mean())
        readings.append(label_equivalent(float(own[chosen].mean()), means))
    readings.sort(key=lambda reading: (reading.labels, ("fewer than", "about", "more than").index(reading.bound)))
    beyond = round((1 - level) / 2 * (len(readings) - 1))
    return readings[beyond], readings[-1 - beyond]
