"""Folds that each hold out the labelled cases of one whole group, in nnU-Net's own splits file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from nnunet_ssl.data.files import write_json
from nnunet_ssl.errors import InputError, StateError
from nnunet_ssl.locations import results_root
from nnunet_ssl.nnunet_api.setup import NnunetSetup

SPLITS = "splits_final.json"


def group_folds(setup: NnunetSetup, groups: Mapping[str, str]) -> dict[str, dict[str, list[str]]]:
    """One fold per group of the labelled cases, in the order of their names: the group validates, all others train.

    Args:
        setup: the labelled dataset.
        groups: by case; every labelled case needs one.

    Raises:
        InputError: if a labelled case has no group, or all have the same.
    """
    cases = list(setup.labelled_cases)
    if missing := [case for case in cases if case not in groups]:
        raise InputError(
            f"labelled case '{missing[0]}' has no group ({len(missing)} of {len(cases)}): a fold holds out a whole group of labelled "
            "cases; add them to the table of --groups."
        )
    names = sorted({groups[case] for case in cases})
    if len(names) < 2:
        raise InputError(f"all labelled cases are of group '{names[0]}': a fold that holds it out has nothing to train on.")
    return {name: {"train": [c for c in cases if groups[c] != name], "val": [c for c in cases if groups[c] == name]} for name in names}


def write_group_folds(setup: NnunetSetup, groups: Mapping[str, str]) -> dict[str, dict[str, list[str]]]:
    """Write `splits_final.json` with `group_folds` where there is none; one that is there is never changed.

    Returns:
        The folds by group; the number of a fold is its place.

    Raises:
        InputError: see `group_folds`.
        StateError: if other folds are there, or models that were trained on other folds.
    """
    folds = group_folds(setup, groups)
    path = setup.preprocessed_folder / SPLITS
    for place in (path, setup.raw_folder / SPLITS):  # nnU-Net copies the latter when it plans
        if place.is_file() and _content(place) != list(folds.values()):
            raise StateError(
                f"{place} holds other folds and is never overwritten; hold groups out in a copy of {setup.dataset}, or move the file away "
                "together with every model that was trained on its folds."
            )
    if path.is_file():
        return folds
    trained = sorted((results_root() / setup.dataset).glob("*/fold_[0-9]*/checkpoint_*.pth"))
    if trained:
        raise StateError(
            f"{trained[0]} was trained on other folds than would be written to {path}, and may have seen what they hold out; move such "
            f"models away, or hold groups out in a copy of {setup.dataset}."
        )
    write_json(path, list(folds.values()))
    return folds


def _content(path: Path) -> object:
    """None where it is no JSON."""
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None
