"""Models of the labelled dataset that are trained already, and could be the teacher in place of one that is to be trained."""

from __future__ import annotations

from dataclasses import replace

from nnunet_ssl.controls import FROM_SCRATCH, control_overlay
from nnunet_ssl.locations import PUBLISHED_MARKER, ModelLocation, manifests_below, plans_flag, results_root
from nnunet_ssl.nnunet_api.json_file import read_json


def flags_of_trained_models(teacher: ModelLocation, *folds: int | str) -> dict[str, list[int | str]]:
    """What names each of them to our commands, for instance `-tr nnUNetTrainer`, sorted, with the folds that are trained.

    Students that were published are none of them, nor what a control links.

    Args:
        teacher: the model that is to be the teacher, which is left out.
        folds: that are looked at, of which one has to be trained.
    """
    found: dict[str, list[int | str]] = {}
    for folder in sorted((results_root() / teacher.dataset).glob(f"*__*__{teacher.configuration}")):
        trainer, plans = folder.name.split("__")[:2]
        model = replace(teacher, trainer=trainer, plans=plans)
        trained = [f for f in folds if model.checkpoint(f).is_file() and not (model.fold_folder(f) / PUBLISHED_MARKER).is_file()]
        if trained and model != teacher and model.folder == folder and not _is_of_control(model):
            found[f"-tr {trainer}{plans_flag(plans)}"] = trained
    return found


def _is_of_control(model: ModelLocation) -> bool:
    """Whether the model is a control, or a control's workspace is in any of its folds."""
    if f"{control_overlay(FROM_SCRATCH)}_" in model.plans:
        return True
    return any(read_json(path).get("control") is not None for path in manifests_below(model.folder))
