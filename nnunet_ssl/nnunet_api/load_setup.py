"""Resolving and checking an existing nnU-Net set-up, before anything is done with it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from nnunet_ssl.errors import ConfigError, InputError, SetupError, StateError
from nnunet_ssl.locations import dataset_number, preprocessed_root, raw_root, results_root
from nnunet_ssl.names import check_names
from nnunet_ssl.nnunet_api.dataset_name import resolve_dataset
from nnunet_ssl.nnunet_api.json_file import read_json
from nnunet_ssl.nnunet_api.missing_plans import missing_plans
from nnunet_ssl.nnunet_api.plans_check import check_dataset_json, check_plans
from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.nnunet_api.shared_data import refuse_old_plans

logger = logging.getLogger(__name__)


def load_setup(dataset: str, configuration: str, plans_name: str, *, only_looks: bool = False) -> NnunetSetup:
    """Resolve and check a set-up.

    Args:
        dataset: id or name, as for `nnUNetv2_train`.
        configuration: for instance `3d_fullres`.
        plans_name: for instance `nnUNetPlans`.
        only_looks: whether nothing is to be made from the data, so that plans which are older are only warned of.

    Raises:
        SetupError: if a variable, the dataset, its plans or its preprocessed data are missing (the message says which command makes them),
            or the configuration is part of a cascade.
        InputError, ConfigError: if plans or dataset.json are broken.
        StateError: if plans of ours are older than the data that they share with others.
    """
    raw_root(), preprocessed_root(), results_root()
    name = resolve_dataset(dataset)
    number = dataset_number(name)
    folder = preprocessed_root() / name
    plans_file = folder / f"{plans_name}.json"
    if not plans_file.is_file():
        raise SetupError(missing_plans(folder, number, configuration, plans_name))
    plans, dataset_json = read_json(plans_file), read_json(folder / "dataset.json")
    for entry, wanted in (("plans_name", plans_name), ("dataset_name", name)):
        if (found := plans.get(entry, wanted)) != wanted:  # that one is missing is said below
            raise InputError(
                f"{plans_file} has the {entry} {found!r}, by which nnU-Net names the folder of a training, and not '{wanted}'; correct it "
                "there."
            )
    setup = checked_setup(name, plans_name, configuration, plans, dataset_json, folder=folder, plans_file=plans_file)
    try:
        refuse_old_plans(setup)
    except StateError as error:
        if not only_looks:
            raise
        logger.warning("%s", error)
    if not setup.data_folder.is_dir():
        raise SetupError(
            f"{setup.data_folder} is missing; run: nnUNetv2_preprocess -d {number} -plans_name {plans_name} -c {configuration}"
        )
    if not any(setup.data_folder.glob("*.b2nd")):
        raise SetupError(
            f"{setup.data_folder} holds no .b2nd files (written by nnU-Net before 2.6?); preprocess again with nnU-Net 2.8: "
            f"nnUNetv2_preprocess -d {number} -plans_name {plans_name} -c {configuration}"
        )
    if setup.raw_folder.is_dir():
        _check_number_of_cases(setup)
    return setup


def checked_setup(
    dataset: str,
    plans_name: str,
    configuration: str,
    plans: dict[str, Any],
    dataset_json: dict[str, Any],
    *,
    folder: Path,
    plans_file: Path,
) -> NnunetSetup:
    """A set-up whose plans and dataset.json have all that is read of them.

    Args:
        dataset: folder name.
        plans_name: plans name.
        configuration: configuration name.
        plans: content of `plans_file`.
        dataset_json: content of dataset.json in `folder`.
        folder: where dataset.json lies.
        plans_file: where the plans lie.

    Raises:
        SetupError: if there is no such configuration, or it is part of a cascade.
        InputError, ConfigError: if something is missing or cannot be.
    """
    configurations = plans.get("configurations")
    if not isinstance(configurations, dict):
        raise InputError(f"{plans_file} has no 'configurations'; restore it, or make it again with nnU-Net.")
    if configuration not in configurations:
        raise SetupError(f"{plans_file} has no configuration '{configuration}'; it has: {', '.join(configurations)}.")
    check_plans(plans, configuration, plans_file)
    check_dataset_json(dataset_json, plans, folder / "dataset.json")
    setup = NnunetSetup(dataset, plans_name, configuration, plans, dataset_json)
    _check_written_names(setup, plans_file, folder / "dataset.json")
    if setup.configuration_manager.previous_stage_name is not None:
        raise SetupError(
            f"'{configuration}' is the second stage of a cascade, which nnunet-ssl does not support; use 3d_lowres or 3d_fullres."
        )
    try:
        _ = setup.method
    except ConfigError as error:
        raise ConfigError(f"{plans_file}, {configuration}: {error}") from error
    return setup


def _check_written_names(setup: NnunetSetup, plans_file: Path, dataset_file: Path) -> None:
    """See that what becomes part of the names of our files leads nowhere else.

    Raises:
        InputError: if the file ending or the data identifier is no plain name.
    """
    check_names([setup.dataset_json.get("file_ending")], "file_ending", dataset_file)
    check_names([setup.configuration_manager.data_identifier], "data_identifier", plans_file)


def _check_number_of_cases(setup: NnunetSetup) -> None:
    """Cases that were lost or forgotten show in `numTraining`."""
    said, found = setup.dataset_json.get("numTraining"), len(setup.labelled_cases)
    if isinstance(said, bool) or said != found:
        raise InputError(
            f"{setup.preprocessed_folder / 'dataset.json'} has the 'numTraining' {said!r}, {setup.raw_folder} has {found} labelled cases; "
            "put back what is missing, or correct the number in both dataset.json and preprocess cases that are new."
        )
