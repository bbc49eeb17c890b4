"""Dice of several models on a test set whose true labels are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_ssl.data.files import write_csv
from nnunet_ssl.report.validation import Validation


@dataclass(frozen=True)
class EvaluatedModel:
    """One model and how it did."""

    name: str
    steps: int
    """Optimiser steps behind it, its predecessors' included."""
    figures: Validation


def write_true_dice(path: Path, tested: Sequence[EvaluatedModel]) -> None:
    """Write the table as CSV: steps, Dice per class, mean over the classes, test cases."""
    classes = list(tested[0].figures.classes)
    rows = [{"model": t.name, "steps": t.steps, **_dice(t), "cases": t.figures.num_cases} for t in tested]
    columns = ["model", "steps", *(f"dice_{name}" for name in classes), "dice_mean", "cases"]
    write_csv(path, columns, [{key: f"{v:.6f}" if isinstance(v, float) else v for key, v in row.items()} for row in rows])


def format_true_dice(tested: Sequence[EvaluatedModel]) -> str:
    """The table as aligned text; the last column is the difference of the means to the last model's, the control's."""
    control = tested[-1].figures.mean.dice
    lines = [["model", "steps", *tested[0].figures.classes, "mean", "to control"]]
    for model in tested:
        mean = model.figures.mean.dice
        gain = "-" if mean is None or control is None or model is tested[-1] else f"{mean - control:+.4f}"
        lines.append([model.name, str(model.steps), *map(_number, _dice(model).values()), gain])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines)


def _dice(model: EvaluatedModel) -> Mapping[str, float | None]:
    figures = model.figures
    return {**{f"dice_{name}": found.dice for name, found in figures.classes.items()}, "dice_mean": figures.mean.dice}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
