"""Run the planner: over a dataset afresh, or for the patch, batch and network of a configuration whose data exist."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from nnunet_ssl.errors import ConfigError, SetupError
from nnunet_ssl.locations import dataset_number, preprocessed_root, raw_root
from nnunet_ssl.nnunet_api.json_file import read_json
from nnunet_ssl.nnunet_api.planner import TransASPPPlanner
from nnunet_ssl.nnunet_api.setup import NnunetSetup

MIN_GPU_MEMORY_GB = 4
_OF_DATASET = ("labels", "file_ending", "numTraining")
_OF_FINGERPRINT = ("spacings", "shapes_after_crop", "foreground_intensity_properties_per_channel", "median_relative_size_after_cropping")
"""What nnU-Net's planner reads of both files."""


def plan_dataset(
    dataset: str,
    *,
    plans_name: str,
    gpu_memory_target: float,
    target_spacing: Sequence[float] | None = None,
    torch_resampling: str | None = None,
) -> dict[str, Any]:
    """Plan every configuration of a dataset; nothing is written but a copy of `dataset.json`, where nnU-Net has not made it yet.

    Args:
        dataset: folder name.
        plans_name: name that goes into the plans and their data identifiers.
        gpu_memory_target: in GB.
        target_spacing: of 3d_fullres in mm, as `-overwrite_target_spacing`; None is nnU-Net's choice.
        torch_resampling: `cpu` or `cuda`: PyTorch resamples images, labels and probabilities there; None is nnU-Net's default.

    Returns:
        The plans, of JSON types.

    Raises:
        SetupError: if the dataset or its fingerprint is missing, or contradicts files of an earlier planning.
        ConfigError: if the memory target is out of range or too small for any patch.
    """
    if target_spacing is not None and not all(0 < size < math.inf for size in target_spacing):
        given = " ".join(f"{size:g}" for size in target_spacing)
        raise ConfigError(f"-overwrite_target_spacing {given}: expected millimetres above 0.")
    planner = _planner(dataset, gpu_memory_target, plans_name=plans_name, spacing=target_spacing)
    _check_copy(dataset)
    planner.torch_resampling = torch_resampling
    with contextlib.redirect_stdout(io.StringIO()):
        return _of_json_types(planner.plan_experiment())


def size_configuration(setup: NnunetSetup, architecture: dict[str, Any], gpu_memory_target: float) -> dict[str, Any]:
    """Patch, batch and network for a GPU, for data that are preprocessed already; nothing is written.

    Args:
        setup: gives the dataset and the configuration's spacing and image size.
        architecture: TransASPPUNet's block for the present patch, whose widths, depth and further settings are kept.
        gpu_memory_target: in GB.

    Returns:
        The configuration's `patch_size`, `batch_size` and `architecture`, of JSON types.

    Raises:
        SetupError, ConfigError: as `plan_dataset`.
    """
    planner = _planner(setup.dataset, gpu_memory_target)
    planner.keep_network(architecture)
    manager = setup.configuration_manager
    voxels = median_voxels(setup) * int(setup.dataset_json["numTraining"])
    shape = tuple(int(size) for size in manager.median_image_size_in_voxels)
    plan = planner.get_plans_for_configuration(np.array(manager.spacing), shape, str(manager.data_identifier), float(voxels), {})
    return {key: _of_json_types({key: plan[key]})[key] for key in ("patch_size", "batch_size", "architecture")}


def median_voxels(setup: NnunetSetup) -> int:
    """Voxels of an image of median size on the network's grid; a 2D network's slices together."""
    shape = setup.configuration_manager.median_image_size_in_voxels
    slices = setup.plans_manager.original_median_shape_after_transp[0] if len(shape) == 2 else 1
    return int(prod(shape) * slices)


def _planner(dataset: str, gpu_memory_target: float, *, plans_name: str = "", spacing: Sequence[float] | None = None) -> TransASPPPlanner:
    if not gpu_memory_target >= MIN_GPU_MEMORY_GB:
        raise ConfigError(f"gpu_memory_target is {gpu_memory_target}; expected at least {MIN_GPU_MEMORY_GB} (GB).")
    _check_files(dataset)
    target_spacing = None if spacing is None else [float(size) for size in spacing]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return TransASPPPlanner(dataset, gpu_memory_target, plans_name=plans_name, overwrite_target_spacing=target_spacing)
    except AssertionError as error:  # nnU-Net's only one there
        both = f"{raw_root() / dataset}/splits_final.json and the one in {preprocessed_root() / dataset}"
        raise SetupError(f"{both} have different splits; remove one of them, or make them equal.") from error


def _check_files(dataset: str) -> None:
    raw, folder = raw_root() / dataset, preprocessed_root() / dataset
    number = dataset_number(dataset)
    if not (raw / "dataset.json").is_file():
        raise SetupError(f"{raw / 'dataset.json'} is missing; planning needs the raw dataset.")
    if not (folder / "dataset_fingerprint.json").is_file():
        raise SetupError(f"{folder / 'dataset_fingerprint.json'} is missing; run: nnUNetv2_extract_fingerprint -d {number}")
    for path, keys in ((raw / "dataset.json", _OF_DATASET), (folder / "dataset_fingerprint.json", _OF_FINGERPRINT)):
        if missing := [key for key in keys if key not in read_json(path)]:
            raise SetupError(f"{path} has no '{missing[0]}'; restore it, or make it again with nnU-Net.")


def _check_copy(dataset: str) -> None:
    """nnU-Net's planner copies `dataset.json` over the preprocessed one, which is fine only where they are the same."""
    raw, copied = raw_root() / dataset / "dataset.json", preprocessed_root() / dataset / "dataset.json"
    if copied.is_file() and read_json(copied) != read_json(raw):
        raise SetupError(f"{copied} differs from {raw}; make them equal, planning would overwrite the first with the second.")


def _of_json_types(content: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(content, default=lambda value: value.tolist()))
    return made
