"""Which fold a model was trained on, and which images: what nnU-Net left with it, whatever folder, splits and plans say by now."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ssl.errors import StateError
from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.nnunet_api.checkpoints import load_checkpoint
from nnunet_ssl.nnunet_api.json_file import read_json
from nnunet_ssl.nnunet_api.model_data import first_difference
from nnunet_ssl.nnunet_api.plans_check import check_plans
from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.nnunet_api.training_state import training_command
from nnunet_ssl.nnunet_api.validation_summary import validated_cases


def refuse_other_fold(checkpoint: Mapping[str, Any], path: Path, fold: int | str) -> None:
    """See that a checkpoint comes from the training of a fold.

    Args:
        checkpoint: content of a checkpoint of nnU-Net, which keeps the fold of its training.
        path: where it lies.
        fold: the fold whose validation cases it must not have seen; `all` holds none out, so that any training will do.

    Raises:
        StateError: if it was trained on another fold.
    """
    trained = checkpoint.get("init_args", {}).get("fold", fold)
    if fold != "all" and str(trained) != str(fold):
        raise StateError(
            f"{path} was trained on fold {trained}, not on fold {fold}, and may have seen cases that fold {fold} holds out; "
            f"put the model of fold {fold} there."
        )


def check_model_of_fold(model: ModelLocation, fold: int | str) -> None:
    """The same for the final checkpoint of a model's fold, which must have been trained on the images of the model's plans as well.

    Raises:
        SetupError: if there is none.
        InputError: if its plans, or `plans.json` or `dataset.json` beside the model, cannot be used.
        StateError: if it was trained on another fold, or by plans that make other images than `plans.json` does.
    """
    path = model.checkpoint(fold)
    checkpoint = load_checkpoint(path)
    refuse_other_fold(checkpoint, path, fold)
    _refuse_other_plans(checkpoint, path, model, fold)


def _refuse_other_plans(checkpoint: Mapping[str, Any], path: Path, model: ModelLocation, fold: int | str) -> None:
    """See that the plans beside a model, which nnU-Net writes anew with every training of any fold, make the images of this one."""
    plans = _as_in_a_file(checkpoint.get("init_args", {}).get("plans"))
    trained, newest = _setup_of(plans, path, model), model.folder / "plans.json"
    if trained is None or (now := _setup_of(read_json(newest), newest, model)) is None:
        return
    if (difference := first_difference(trained, now)) is not None:
        name, then, there = difference
        raise StateError(
            f"{path} was trained on other images than {newest} makes: '{name}' is {then} in the plans of that training, and {there} there; "
            f"train that fold again: {training_command(model, fold, anew=True)}"
        )


def _as_in_a_file(plans: Any) -> Any:
    """Plans as they come back from JSON: tuples that a trainer's constructor has put into them as lists, NumPy's numbers as plain ones."""
    return json.loads(json.dumps(plans, default=lambda value: value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)))


def _setup_of(plans: Any, path: Path, model: ModelLocation) -> NnunetSetup | None:
    """A model's set-up by some plans; None where they say nothing of it, as in a checkpoint that another tool has written."""
    if not isinstance(plans, dict) or model.configuration not in plans.get("configurations", {}):
        return None
    check_plans(plans, model.configuration, path)
    return NnunetSetup(model.dataset, model.plans, model.configuration, plans, read_json(model.folder / "dataset.json"))


def refuse_other_splits(model: ModelLocation, fold: int | str, held_out: Sequence[str], file_ending: str) -> None:
    """See that a fold's final validation, where there is one, was on the cases that the splits hold out now.

    Args:
        model: a trained model.
        fold: its fold.
        held_out: validation cases of the fold in the present splits.
        file_ending: of label files.

    Raises:
        StateError: if a held-out case was not validated on: the splits were others, and the model may have trained on it; or if the summary
            of the validation is damaged.
    """
    validated, summary = validated_cases(model, fold, file_ending), model.validation_summary(fold)
    unseen = sorted(set(held_out) - validated)
    if validated and unseen:
        raise StateError(
            f"fold {fold} of the splits holds out case '{unseen[0]}', on which {model.name} was not validated ({summary}): the splits have "
            "changed since its training, which may have seen that case; restore splits_final.json or train it again."
        )
