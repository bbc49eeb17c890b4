"""`splits_final.json`: which labelled cases train and which validate in every fold."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from nnunet_ssl.errors import InputError
from nnunet_ssl.names import check_names


def read_splits(path: Path, known: Collection[str] | None) -> list[dict[str, list[str]]]:
    """Read and check the splits of a dataset.

    Args:
        path: of the file.
        known: its labelled cases; None where they are not known.

    Raises:
        InputError: if it is damaged, names a case that there is not, or validates on a case that trains, whose figure would mean nothing.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(content, list) or not content:
        raise InputError(f'{path} holds no list of folds; expected [{{"train": [CASES], "val": [CASES]}}, ...].')
    for fold, split in enumerate(content):
        _check_fold(path, fold, split, known)
    return content


def _check_fold(path: Path, fold: int, split: Any, known: Collection[str] | None) -> None:
    for part in ("train", "val"):
        cases = split.get(part) if isinstance(split, dict) else None
        if not isinstance(cases, list) or not all(isinstance(case, str) for case in cases):
            raise InputError(f"{path}: fold {fold} has no list of case names under '{part}'; correct it.")
        check_names(cases, "case id", path)
        if known is not None and (strange := [case for case in cases if case not in known]):
            raise InputError(
                f"{path}: fold {fold} has the case '{strange[0]}' under '{part}', which the dataset does not have; correct it."
            )
    if not split["train"]:
        raise InputError(f"{path}: fold {fold} has no case under 'train'; correct it.")
    if both := sorted(set(split["train"]) & set(split["val"])):
        raise InputError(f"{path}: fold {fold} has the case '{both[0]}' under 'train' and under 'val'; correct it.")
