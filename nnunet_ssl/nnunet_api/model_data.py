"""Which images a trained model was made for: those that its own plans preprocess, whatever plans of that name say by now."""

from __future__ import annotations

from typing import Any

from nnunet_ssl.errors import StateError
from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.nnunet_api.json_file import read_json
from nnunet_ssl.nnunet_api.plans_check import check_dataset_json, check_plans
from nnunet_ssl.nnunet_api.setup import NnunetSetup

_NEEDS_NO_INTENSITIES = {"ZScoreNormalization", "NoNormalization", "RescaleTo01Normalization", "RGBTo01Normalization"}
"""nnU-Net's normalisations that ask for nothing but the image; others may use the intensities that the plans keep of the dataset."""


def refuse_other_images(model: ModelLocation, setup: NnunetSetup) -> None:
    """See that a model was trained on images as the plans of a set-up preprocess them now.

    Args:
        model: a trained model, with the `plans.json` and `dataset.json` that nnU-Net left beside it.
        setup: whose preprocessed images the model is to see.

    Raises:
        InputError: if its `plans.json` or `dataset.json` cannot be used.
        StateError: if plans of the model preprocess in another way: the dataset was planned again since the training.
    """
    path, described = model.folder / "plans.json", model.folder / "dataset.json"
    plans, dataset_json = read_json(path), read_json(described)
    if setup.configuration not in plans.get("configurations", {}):
        raise StateError(f"{path} does not have the configuration '{setup.configuration}'; put the plans of that model there.")
    check_plans(plans, setup.configuration, path)
    check_dataset_json(dataset_json, plans, described)
    theirs = NnunetSetup(model.dataset, model.plans, setup.configuration, plans, dataset_json)
    if (difference := first_difference(theirs, setup)) is not None:
        name, trained, now = difference
        present = setup.preprocessed_folder / f"{setup.plans_name}.json"
        raise StateError(
            f"{model.name} was trained on other images than {present} makes now: '{name}' is {trained} in {path}, and {now} there; "
            "restore the plans and preprocess again, or train the model again."
        )


def first_difference(first: NnunetSetup, second: NnunetSetup) -> tuple[str, str, str] | None:
    """The first thing by which the plans of two set-ups make different images.

    Returns:
        Its name, and what the first and the second say of it, shortened; None where both make the same images.
    """
    of_first, of_second = _compared(first), _compared(second)
    for name, value in of_second.items():
        if of_first[name] != value:
            return name, _short(of_first[name]), _short(value)
    return None


def _compared(setup: NnunetSetup) -> dict[str, Any]:
    """What shapes images and has to agree; names of folders need not."""
    shaping = {name: value for name, value in setup.shaping().items() if name != "data_identifier"}
    if set(shaping["normalization_schemes"]) <= _NEEDS_NO_INTENSITIES:
        del shaping["intensities"]
    return shaping


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
