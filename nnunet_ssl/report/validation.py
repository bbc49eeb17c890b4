"""Figures on a fold's validation cases, as nnU-Net's own final validation reports them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ssl.errors import StateError
from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.nnunet_api.json_file import read_json
from nnunet_ssl.nnunet_api.setup import NnunetSetup


@dataclass(frozen=True)
class ClassFigures:
    """Mean over the validation cases; None where nnU-Net has none (the class is in no case)."""

    dice: float | None
    iou: float | None


@dataclass(frozen=True)
class Validation:
    """One model on one set of labelled cases."""

    num_cases: int
    mean: ClassFigures
    """Mean over the foreground classes (regions)."""
    classes: Mapping[str, ClassFigures]
    """By class (region) name, in the order of the network's outputs, without background."""


def foreground_keys(setup: NnunetSetup) -> dict[str, str]:
    """The key under which `summary.json` has each class or region, by name: `1`, or `(1, 2)` for a region of several labels."""
    labels = setup.dataset_json["labels"]
    return {name: str(tuple(labels[name]) if isinstance(labels[name], list | tuple) else labels[name]) for name in setup.foreground_names}


def read_validation(model: ModelLocation, fold: int | str, keys: Mapping[str, str]) -> Validation | None:
    """Read `validation/summary.json` of a fold.

    Args:
        model: the model.
        fold: its fold; `all` has no validation cases, although nnU-Net writes figures on training cases there.
        keys: see `foreground_keys`.

    Returns:
        The figures, or None before validation and for `all`.

    Raises:
        StateError: if the file is not a summary of these classes.
    """
    path = model.validation_summary(fold)
    return read_summary(path, keys) if fold != "all" and path.is_file() else None


def read_summary(path: Path, keys: Mapping[str, str]) -> Validation:
    """Read a `summary.json` of nnU-Net's evaluation.

    Args:
        path: the file.
        keys: see `foreground_keys`.

    Raises:
        StateError: if it is not a summary of these classes.
    """
    content = read_json(path)
    try:
        classes = {name: _figures(content["mean"][key]) for name, key in keys.items()}
        return Validation(len(content["metric_per_case"]), _figures(content["foreground_mean"]), classes)
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"{path} is not a summary of {', '.join(keys)} ({error!r}); remove it and evaluate again.") from error


def _figures(metrics: Mapping[str, Any]) -> ClassFigures:
    return ClassFigures(_number(metrics["Dice"]), _number(metrics["IoU"]))


def _number(value: Any) -> float | None:
    return None if value is None or math.isnan(float(value)) else float(value)
