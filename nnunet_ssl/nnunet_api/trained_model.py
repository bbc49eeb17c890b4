"""A trained nnU-Net model, read without running code that its checkpoints might carry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from nnunet_ssl.errors import SetupError, StateError
from nnunet_ssl.networks.sampling import has_uncertainty_head
from nnunet_ssl.nnunet_api.checkpoints import UNCERTAINTY_TERM, load_checkpoint, mirroring_axes
from nnunet_ssl.nnunet_api.external_trainers import find_trainer
from nnunet_ssl.nnunet_api.finite_weights import require_finite_weights
from nnunet_ssl.nnunet_api.json_file import read_json
from nnunet_ssl.nnunet_api.plans_check import check_dataset_json, check_plans
from nnunet_ssl.nnunet_api.trainer_network import build_network


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A network with the weights of one or more folds, and what nnU-Net's predictor asks for besides."""

    network: nn.Module
    """With the weights of the first fold."""
    plans_manager: Any
    configuration_manager: Any
    parameters: list[dict[str, Tensor]]
    """One set of weights per fold."""
    dataset_json: dict[str, Any]
    trainer_name: str
    mirroring_axes: tuple[int, ...] | None
    head_is_trained: bool
    """Whether the network has an uncertainty head that has learnt in every fold."""


def load_trained_model(model_folder: Path, folds: list[int | str]) -> TrainedModel:
    """Load a trained model's folds.

    Args:
        model_folder: `nnUNet_results/<dataset>/<trainer>__<plans>__<configuration>`.
        folds: one or more folds.

    Raises:
        SetupError: if a fold or the trainer class is missing.
        StateError: if a checkpoint is damaged or does not fit, or has weights that are NaN or infinite.
    """
    paths = [model_folder / f"fold_{fold}" / "checkpoint_final.pth" for fold in folds]
    checkpoints = [load_checkpoint(path) for path in paths]
    configuration, trainer_name = _origin_of(checkpoints[0], paths[0])
    plans_file = model_folder / "plans.json"
    plans, dataset_json = read_json(plans_file), read_json(model_folder / "dataset.json")
    if configuration not in plans.get("configurations", {}):
        raise StateError(f"{paths[0]} was trained with the configuration '{configuration}', which {plans_file} does not have.")
    check_plans(plans, configuration, plans_file)
    check_dataset_json(dataset_json, plans, model_folder / "dataset.json")
    plans_manager = PlansManager(plans)
    configuration_manager = plans_manager.get_configuration(configuration)
    try:
        trainer = find_trainer(trainer_name)
    except SetupError as error:
        raise SetupError(f"{paths[0]}: {error}") from error
    heads = plans_manager.get_label_manager(dataset_json).num_segmentation_heads
    channels = determine_num_input_channels(plans_manager, configuration_manager, dataset_json)
    network = build_network(trainer, plans_manager, configuration_manager, channels, heads, deep_supervision=False)
    parameters = [checkpoint["network_weights"] for checkpoint in checkpoints]
    for path, weights in zip(paths, parameters, strict=True):
        if not isinstance(weights, dict):
            raise StateError(f"{path} is not a checkpoint of nnU-Net (its 'network_weights' are no weights by name).")
        require_finite_weights(weights, path)
    for path, weights in reversed(list(zip(paths, parameters, strict=True))):  # the first fold's stay
        try:
            network.load_state_dict(weights)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise SetupError(f"the weights in {path} do not fit the network its plans describe: {str(error).splitlines()[-1]}") from error
    return TrainedModel(
        network=network,
        plans_manager=plans_manager,
        configuration_manager=configuration_manager,
        parameters=parameters,
        dataset_json=dataset_json,
        trainer_name=trainer.__name__,
        mirroring_axes=mirroring_axes(checkpoints[0], paths[0]),
        head_is_trained=has_uncertainty_head(network) and all(map(_head_has_learnt, checkpoints)),
    )


def _origin_of(checkpoint: dict[str, Any], path: Path) -> tuple[str, str]:
    """Configuration and trainer of a checkpoint."""
    arguments = checkpoint.get("init_args")
    configuration = arguments.get("configuration") if isinstance(arguments, dict) else None
    trainer_name = checkpoint.get("trainer_name")
    if not isinstance(configuration, str) or not isinstance(trainer_name, str):
        raise StateError(f"{path} is not a checkpoint of nnU-Net (it has no 'init_args' with a configuration, or no 'trainer_name').")
    return configuration, trainer_name


def _head_has_learnt(checkpoint: dict[str, Any]) -> bool:
    losses = np.array(checkpoint.get("logging", {}).get(UNCERTAINTY_TERM, []), dtype=np.float64)
    return bool(np.isfinite(losses).any())
