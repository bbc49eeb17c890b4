"""What plans and dataset.json must hold, looked at once, so that a broken file is named before anything works with it."""

from __future__ import annotations

import contextlib
import io
import math
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_ssl.errors import InputError

_PLANS = ("dataset_name", "plans_name", "image_reader_writer", "transpose_forward", "transpose_backward")
_CONFIGURATION = (
    "data_identifier", "preprocessor_name", "batch_size", "patch_size", "spacing", "normalization_schemes", "use_mask_for_norm",
    "median_image_size_in_voxels", "architecture",
    *(f"resampling_fn_{kind}{end}" for kind in ("data", "seg", "probabilities") for end in ("", "_kwargs")),
)  # fmt: skip


def check_plans(plans: dict[str, Any], configuration: str, path: Path) -> None:
    """See that plans have what nnU-Net and we read of them.

    Args:
        plans: content of the file; it has the configuration.
        configuration: the one to look at.
        path: of the file, for messages.

    Raises:
        InputError: with the entry that is missing or cannot be.
    """
    for key in _PLANS:
        _require(key in plans, path, f"has no '{key}'")
    for key in ("transpose_forward", "transpose_backward"):
        axes = plans[key]
        is_permutation = isinstance(axes, list) and all(isinstance(axis, int) for axis in axes) and sorted(axes) == list(range(len(axes)))
        _require(is_permutation, path, f"has the '{key}' {axes!r}, which is no order of axes")
    with _problems_of(path, "cannot be used by nnU-Net"):
        manager = PlansManager(plans)
        channels = manager.foreground_intensity_properties_per_channel
        _ = manager.image_reader_writer_class
    _require(isinstance(channels, dict), path, "has 'foreground_intensity_properties_per_channel' that are no object")
    _check_inheritance(plans["configurations"], configuration, path)
    with _problems_of(path, f"has a configuration '{configuration}' that cannot be used by nnU-Net"):
        found = manager.get_configuration(configuration)
    _check_configuration(found, configuration, len(channels), path)


def _check_inheritance(configurations: dict[str, Any], name: str, path: Path) -> None:
    """See that a configuration and those it inherits from are there, and describe a network (plans of older versions in another way)."""
    seen: list[str] = []
    keys: set[str] = set()
    parent: Any = name
    while parent is not None:
        part = configurations.get(parent) if isinstance(parent, str) else None
        _require(isinstance(part, dict), path, f"has no configuration '{parent}' that is an object")
        _require(parent not in seen, path, f"has the configuration '{parent}', which inherits from itself")
        seen.append(parent)
        keys |= set(part or ())
        parent = (part or {}).get("inherits_from")
    _require(bool(keys & {"architecture", "UNet_class_name"}), path, f"has no 'architecture' in its configuration '{name}'")


def _check_configuration(found: ConfigurationManager, name: str, num_channels: int, path: Path) -> None:
    content = found.configuration
    for key in _CONFIGURATION:
        _require(key in content, path, f"has no '{key}' in its configuration '{name}'")
    spacing, patch = content["spacing"], content["patch_size"]
    _require(_are_positive(spacing, (int, float)), path, f"has the 'spacing' {spacing!r} in its configuration '{name}'")
    fits = _are_positive(patch, (int,)) and len(patch) == len(spacing)
    _require(fits, path, f"has the 'patch_size' {patch!r} in its configuration '{name}'")
    _require(_are_positive([content["batch_size"]], (int,)), path, f"has the 'batch_size' {content['batch_size']!r}")
    schemes = content["normalization_schemes"]
    is_known = isinstance(schemes, list) and len(schemes) == num_channels
    _require(is_known, path, f"has the 'normalization_schemes' {schemes!r} for {num_channels} channels")
    with _problems_of(path, f"has a configuration '{name}' that cannot be used by nnU-Net"):
        _ = found.resampling_fn_data, found.resampling_fn_seg, found.resampling_fn_probabilities
        preprocessor = found.preprocessor_class
    _require(preprocessor is not None, path, f"names the preprocessor {content['preprocessor_name']!r}, which nnU-Net does not have")


def check_dataset_json(content: dict[str, Any], plans: dict[str, Any], path: Path) -> None:
    """See that dataset.json has what nnU-Net and we read of it, and fits the plans.

    Args:
        content: of the file.
        plans: content of the plans, checked.
        path: of the file, for messages.

    Raises:
        InputError: with the entry that is missing or cannot be.
    """
    for key, kind in (("labels", dict), ("file_ending", str)):
        _require(isinstance(content.get(key), kind), path, f"has no '{key}' of the right kind ({content.get(key)!r})")
    names = content.get("channel_names", content.get("modality"))
    _require(isinstance(names, dict), path, f"has no 'channel_names' of the right kind ({names!r})")
    manager = PlansManager(plans)
    channels = len(manager.foreground_intensity_properties_per_channel)
    _require(len(names or ()) == channels, path, f"has {len(names or ())} channels in 'channel_names' where the plans have {channels}")
    with _problems_of(path, "has 'labels' that cannot be used by nnU-Net"):
        labels = manager.get_label_manager(content)
        values = [int(value) for value in labels.all_labels]
    _require(values == list(range(len(values))), path, f"has the labels {values}, which are not consecutive")
    named = [name for name in content["labels"] if name != "ignore"]
    _require(labels.has_regions or len(named) == len(values), path, f"has the labels {content['labels']}, which are not consecutive")


def _are_positive(values: Any, kinds: tuple[type, ...]) -> bool:
    """Whether there is a list of finite numbers above 0, and not an empty one."""
    return isinstance(values, list) and bool(values) and all(type(value) in kinds and 0 < value < math.inf for value in values)


def _require(condition: bool, path: Path, problem: str) -> None:
    if not condition:
        raise InputError(f"{path} {problem}; restore it, or make it again with nnU-Net.")


class _problems_of(contextlib.AbstractContextManager[None]):  # noqa: N801 (used like a function)
    """Turn whatever nnU-Net raises on broken content into a line that names the file; what it prints is dropped."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path, self.problem, self.output = path, problem, contextlib.redirect_stdout(io.StringIO())

    def __enter__(self) -> None:
        self.output.__enter__()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.output.__exit__(kind, error, trace)
        if isinstance(error, Exception):
            raise InputError(f"{self.path} {self.problem} ({error}); restore it, or make it again with nnU-Net.") from error
