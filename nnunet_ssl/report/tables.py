"""The tables of a run: stages, classes, cases, scores on held-out cases, cases for review, epochs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.report.collect import ModelFacts, RunFacts
from nnunet_ssl.report.held_out import HeldOutFacts
from nnunet_ssl.report.table import Column, Table, table
from nnunet_ssl.report.training_log import TrainingLog


def stage_table(facts: RunFacts) -> Table:
    """Table I of the paper, one row per model.

    In final mode every label trains, so what nnU-Net calls validation is measured on cases the networks have learned from; the columns
    are named accordingly, and there is no final validation.
    """
    on = "seen_labels" if facts.is_final_mode else "val"
    where = "seen labels" if facts.is_final_mode else "val."
    columns = [
        Column("model", "model", is_text=True),
        Column("fraction", "K", "{:.0%}"),
        Column("labelled_cases", "manual labels", is_shown=False),
        Column("pool_cases", "pseudo-labels"),
        Column("total_cases", "cases in all"),
        Column(f"best_loss_{on}", f"best loss, {where}", "{:.4f}"),
        Column(f"best_pseudo_dice_{on}", f"best pseudo Dice, {where}", "{:.4f}"),
        Column("gain", "gain", "{:+.4f}"),
    ]
    if not facts.is_final_mode:
        columns += [Column("final_dice", "Dice, final validation", "{:.4f}"), Column("final_dice_gain", "gain", "{:+.4f}")]
    columns += [
        Column("tau", "tau", is_shown=not facts.has_one_tau),
        Column("share_confident", "confident voxels", "{:.1%}"),
        Column("changed", "changed labels", "{:.1%}"),
        Column("minutes", "minutes", "{:.1f}"),
        Column("state", "state", is_text=True),
    ]
    return table(columns, _with_gains([_stage_row(model, on) for model in facts.models], f"best_pseudo_dice_{on}"))


def _stage_row(model: ModelFacts, on: str) -> dict[str, Any]:
    log = model.log if model.is_comparable else None
    state = f"{model.state}; labels kept" if model.kept_previous else model.state
    return {
        "model": model.name,
        "fraction": model.fraction,
        "labelled_cases": model.labelled_cases,
        "pool_cases": model.pool_cases,
        "total_cases": None if model.labelled_cases is None else model.labelled_cases + model.pool_cases,
        f"best_loss_{on}": log.best_val_loss if log else None,
        f"best_pseudo_dice_{on}": log.best_pseudo_dice if log else None,
        "final_dice": model.validation.mean.dice if model.validation else None,
        "tau": None if model.tau is None else " ".join(f"{tau:g}" for tau in model.tau),
        "share_confident": model.share_confident,
        "changed": model.changed,
        "minutes": model.minutes,
        "state": state,
    }


def _with_gains(rows: list[dict[str, Any]], pseudo_dice: str) -> list[dict[str, Any]]:
    for before, row in pairwise(rows):
        row["gain"] = _difference(row[pseudo_dice], before[pseudo_dice])
        row["final_dice_gain"] = _difference(row["final_dice"], before["final_dice"])
    return rows


def _difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


def class_table(facts: RunFacts) -> Table:
    """Dice and IoU per class and model, one row for each pair; for the CSV."""
    columns = [Column("model", "model", is_text=True), Column("class", "class", is_text=True)]
    columns += [Column("dice", "Dice", "{:.4f}"), Column("iou", "IoU", "{:.4f}"), Column("validation_cases", "cases")]
    rows = []
    for model in facts.models:
        if model.validation is not None:
            figures = {**model.validation.classes, "foreground mean": model.validation.mean}
            cases = model.validation.num_cases
            rows += [
                {"model": model.name, "class": name, "dice": f.dice, "iou": f.iou, "validation_cases": cases} for name, f in figures.items()
            ]
    return table(columns, rows)


def class_comparison(facts: RunFacts) -> Table:
    """Dice and IoU per class, with the models side by side as in Table II of the paper; for the page."""
    validated = [m for m in facts.models if m.validation is not None]
    columns = [Column("metric", "", is_text=True), Column("class", "class", is_text=True)]
    columns += [Column(m.name, m.name, "{:.4f}") for m in validated]
    rows = []
    for metric, heading in (("dice", "Dice"), ("iou", "IoU")):
        for name in (*facts.class_names, None):
            row: dict[str, Any] = {"metric": heading, "class": name if name is not None else "mean of the classes"}
            for model in validated:
                validation = model.validation
                if validation is not None:
                    row[model.name] = getattr(validation.mean if name is None else validation.classes[name], metric)
            rows.append(row)
    return table(columns, rows)


def case_table(facts: RunFacts) -> Table:
    """Every pool case with all its scores, first in the curriculum first."""
    names = list(facts.ranking[0].scores) if facts.ranking else []
    columns = [
        Column("rank", "rank"),
        Column("case", "case", is_text=True),
        Column("stage", "enters at stage"),
        *(Column(name, name, "{:.4f}") for name in names),
        Column("stratum", "predicted classes", is_text=True),
        Column("group", "group", is_text=True, is_shown=any(case.group for case in facts.ranking)),
        Column("foreground_voxels", "foreground voxels"),
        Column("confident_share", "confident voxels", "{:.1%}"),
    ]
    rows = [{**vars(case), **case.scores} for case in facts.ranking]
    return table(columns, rows)


def ranking_table(held_out: HeldOutFacts) -> Table:
    """How well each score orders the held-out cases, beside the baseline and a random order; for the page."""
    columns = [
        Column("name", "score", is_text=True),
        Column("spearman", "Spearman", "{:.2f}"),
        Column("aurc", "AURC", "{:.4f}"),
        Column("augrc", "AUGRC", "{:.4f}"),
    ]
    return table(columns, [row._asdict() for row in held_out.ranking_rows])


def review_table(facts: RunFacts) -> Table:
    """Cases without a score: somebody should look at them."""
    columns = [Column("case", "case", is_text=True), Column("stratum", "predicted classes", is_text=True)]
    columns += [Column("foreground_voxels", "foreground voxels"), Column("stage", "enters at stage")]
    return table(columns, [vars(case) for case in facts.ranking if case.listed_for_review])


def epoch_table(facts: RunFacts) -> Table:
    """Every scalar of every epoch of every model."""
    logs = [(model, model.log) for model in facts.models if model.log is not None]
    keys = list(dict.fromkeys(key for _, log in logs for key in log.values))
    dice = [f"pseudo_dice_{name}" for name in facts.class_names]
    columns = [Column("model", "model", is_text=True), Column("epoch", "epoch"), *(Column(key, key) for key in (*keys, *dice))]
    return table(columns, [{"model": model.log_name, **row} for model, log in logs for row in _epoch_rows(log, dice)])


def _epoch_rows(log: TrainingLog, dice: list[str]) -> Iterator[dict[str, Any]]:
    series = {**log.values, **dict(zip(dice, log.class_dice, strict=False))}
    for epoch in range(log.num_epochs):
        measured = {key: values[epoch] for key, values in series.items() if epoch < len(values) and math.isfinite(values[epoch])}
        yield {"epoch": epoch, **measured}


def settings_table(facts: RunFacts) -> Table:
    """Every setting as given, by dotted path; `*` marks those that differ from the defaults."""
    standard = MethodConfig().by_path()
    columns = [Column("setting", "setting", is_text=True), Column("value", "value", is_text=True), Column("changed", "", is_text=True)]
    given = facts.method.by_path().items()
    rows = [{"setting": path, "value": plain(value), "changed": "*" if value != standard[path] else ""} for path, value in given]
    return table(columns, rows)


def plain(value: Any) -> str:
    """A setting as text."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return "none" if value is None else str(value)
