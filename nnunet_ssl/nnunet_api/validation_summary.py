"""What nnU-Net wrote down of a fold's final validation, `validation/summary.json`."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from nnunet_ssl.errors import StateError
from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.nnunet_api.json_file import read_json

T = TypeVar("T")


def mean_dice(model: ModelLocation, fold: int | str) -> float | None:
    """Mean foreground Dice on the fold's labelled validation cases, or None where there is none; `-f all` claims no figure.

    Raises:
        StateError: if the file is no summary.
    """
    return None if fold == "all" else _read(model, fold, lambda content: float(content["foreground_mean"]["Dice"]))


def case_dice(model: ModelLocation, fold: int | str, *, of_absent: float = math.nan) -> dict[str, float]:
    """Mean foreground Dice of every validation case; empty where there is no summary.

    Args:
        model: which.
        fold: its fold.
        of_absent: Dice of a class that is neither in the truth nor in the prediction, for which nnU-Net writes NaN. With NaN such a class
            does not count, and a case that has no class at all is left out.

    Raises:
        StateError: if the file is no summary.
    """

    def of_cases(content: Any) -> dict[str, float]:
        found = {}
        for case in content.get("metric_per_case", ()):
            dice = np.array([metrics["Dice"] for metrics in case["metrics"].values()], dtype=float)
            dice[np.isnan(dice)] = of_absent
            if not np.isnan(dice).all():
                found[Path(case["reference_file"]).name] = float(np.nanmean(dice))
        return found

    return _read(model, fold, of_cases) or {}


def validated_cases(model: ModelLocation, fold: int | str, file_ending: str) -> set[str]:
    """Identifiers of the cases that were validated on; empty where there is no summary.

    Args:
        model: which.
        fold: its fold.
        file_ending: of label files.

    Raises:
        StateError: if the file is no summary.
    """
    names = _read(model, fold, lambda content: {Path(case["reference_file"]).name for case in content.get("metric_per_case", ())})
    return {name.removesuffix(file_ending) for name in names or ()}


def has_probabilities(model: ModelLocation, fold: int | str, file_ending: str) -> bool:
    """Whether the probabilities of every validated case were saved whole, as `nnUNetv2_train --npz` does.

    nnU-Net writes the summary after them: older than one of them, it is of an earlier validation, and a later one was cut off.

    Args:
        model: which.
        fold: its fold.
        file_ending: of label files.

    Raises:
        StateError: if the file is no summary.
    """
    cases, summary = validated_cases(model, fold, file_ending), model.validation_summary(fold)
    files = [summary.with_name(f"{case}{ending}") for case in cases for ending in (".npz", ".pkl")]
    if not files or not all(file.is_file() for file in files):
        return False
    return max(file.stat().st_mtime_ns for file in files) <= summary.stat().st_mtime_ns


def _read(model: ModelLocation, fold: int | str, take: Callable[[Any], T]) -> T | None:
    path = model.validation_summary(fold)
    if not path.is_file():
        return None
    try:
        return take(read_json(path))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StateError(f"{path} is not a summary of nnU-Net's validation; remove it and validate again, with --val.") from error
