"""How far the training of a model's fold is, and the stock command that does what is missing."""

from __future__ import annotations

import json
from pathlib import Path

from nnunet_ssl.locations import DEFAULT_DEVICE, ModelLocation, dataset_number, device_flag, plans_flag


def training_command(model: ModelLocation, fold: int | str, *, anew: bool = False, npz: bool = False, device: str = DEFAULT_DEVICE) -> str:
    """The stock command that trains a model, or does what is missing of it, as a user would type it.

    Args:
        model: which.
        fold: fold of its dataset.
        anew: whether it is to train over what is there, as nnU-Net does without `--c` and `--val`.
        npz: whether its validation is to save probabilities, also where it was done without.
        device: `cuda`, `cpu` or `mps`.
    """
    is_done = is_trained_and_validated(model, fold) and not npz
    checkpoint = None if anew or is_done else checkpoint_to_open(model, fold)
    flag = "" if checkpoint is None else " --val" if checkpoint == model.checkpoint(fold) else " --c"
    flags = f"{plans_flag(model.plans)}{flag}{' --npz' if npz else ''}{device_flag(device)}"
    return f"nnUNetv2_train {dataset_number(model.dataset)} {model.configuration} {fold} -tr {model.trainer}{flags}"


def is_trained_and_validated(model: ModelLocation, fold: int | str) -> bool:
    """Whether training has finished; where the fold has validation cases, whether they are evaluated, too."""
    return model.checkpoint(fold).is_file() and (fold == "all" or _is_json(model.validation_summary(fold)))


def checkpoint_to_open(model: ModelLocation, fold: int | str) -> Path | None:
    """The checkpoint that a training validates or continues from, by nnU-Net's own order; None where it starts anew."""
    final = model.checkpoint(fold)
    places = (final, *(final.with_name(name) for name in ("checkpoint_latest.pth", "checkpoint_best.pth")))
    return next((path for path in places if path.is_file()), None)


def _is_json(path: Path) -> bool:
    """Whether a file is whole: nnU-Net writes its summary in place, and may be killed meanwhile."""
    try:
        json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return True
