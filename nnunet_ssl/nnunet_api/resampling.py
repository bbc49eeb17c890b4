"""nnU-Net's two ways of resampling, as its own planners write them into plans."""

from __future__ import annotations

import inspect
from typing import Any

from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.resampling.resample_with_torch import nnUNetPlannerResEncL_torchres_sepz

from nnunet_ssl.errors import ConfigError

TORCH = "resample_torch_fornnunet"
"""Resampling by PyTorch, on the device that its settings name; on the CPU where they name none."""
STOCK = "resample_data_or_seg_to_shape"
"""What nnU-Net plans by default."""


def image_resampling(planner: ExperimentPlanner, device: str) -> tuple[Any, dict[str, Any], Any, dict[str, Any]]:
    """Functions and settings for images and for labels, by PyTorch; as `determine_resampling` of a planner returns them.

    Args:
        planner: who asks; the settings do not depend on it.
        device: `cpu` or `cuda`.
    """
    # the variant that treats thick slices apart, as nnU-Net's default does
    images, image_settings, labels, label_settings = nnUNetPlannerResEncL_torchres_sepz.determine_resampling(planner)
    return images, _on(device, image_settings), labels, _on(device, label_settings)


def probability_resampling(planner: ExperimentPlanner | None, name: str, settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Function and settings for probabilities; as `determine_segmentation_softmax_export_fn` of a planner returns them.

    Args:
        planner: who asks; the settings do not depend on it.
        name: `TORCH` or `STOCK`.
        settings: replace single ones of nnU-Net's, for instance `{"device": "cuda"}`.

    Raises:
        ConfigError: if the name is another, or the function has no such setting.
    """
    planners = {TORCH: nnUNetPlannerResEncL_torchres_sepz, STOCK: ExperimentPlanner}
    if name not in planners:
        raise ConfigError(f"resampling_fn_probabilities is {name!r}; known: {', '.join(planners)}.")
    function, defaults = planners[name].determine_segmentation_softmax_export_fn(planner)
    if unknown := sorted(set(settings) - set(inspect.signature(function).parameters)):
        raise ConfigError(f"resampling_fn_probabilities_kwargs has {unknown[0]!r}, which {name} does not know.")
    return function, {**defaults, **settings}


def _on(device: str, settings: dict[str, Any]) -> dict[str, Any]:
    return settings if device == "cpu" else {**settings, "device": device}
