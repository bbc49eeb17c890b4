"""Lay one of the shipped overlays over plans that nnU-Net made, under a plans name of our own."""

from __future__ import annotations

import copy
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.data.files import remove_leftovers, write_json
from nnunet_ssl.errors import ConfigError
from nnunet_ssl.locations import presets_folder
from nnunet_ssl.networks.self_configuration import derive_architecture
from nnunet_ssl.nnunet_api.json_file import read_json
from nnunet_ssl.nnunet_api.planning import size_configuration
from nnunet_ssl.nnunet_api.resampling import probability_resampling
from nnunet_ssl.nnunet_api.setup import SHAPES_DATA, NnunetSetup
from nnunet_ssl.nnunet_api.shared_data import refuse_old_plans

logger = logging.getLogger(__name__)

_KEYS = {
    "description", "network", "features", "batch_size", "gpu_memory_target", "resampling_fn_probabilities",
    "resampling_fn_probabilities_kwargs", "nnssl",
}  # fmt: skip
_NETWORKS = ("plans", "TransASPPUNet")


def preset_names() -> list[str]:
    """Names of the shipped overlays: words first, then sizes of GPUs."""
    names = [path.stem for path in presets_folder().glob("*.json")]
    return sorted(names, key=lambda name: (int(name[:-1]) if name[0].isdigit() else 0, name))


def preset_plans_name(base: str, preset: str) -> str:
    """Plans name of an overlay, for instance `nnUNetPlans_nnssl_cpu`."""
    return f"{base}_nnssl_{preset}"


def overlaid(setup: NnunetSetup, preset: str) -> NnunetSetup:
    """The set-up with an overlay's network, batch size and `nnssl` section in its plans, under a name of our own; nothing is written.

    Other configurations that it was laid over before stay so.

    Args:
        setup: the set-up whose plans are the base.
        preset: name of a shipped overlay, or path of a JSON file of the same form.

    Raises:
        ConfigError: if the overlay does not exist or has an unknown key or value.
    """
    overlay, name = _read_overlay(preset)
    plans = copy.deepcopy(setup.plans)
    plans["configurations"][setup.configuration] = _overlaid_configuration(setup, overlay)
    for other in _heirs(setup):
        plans["configurations"][other] = replace(setup, configuration=other).resolved_configuration()
    plans["plans_name"] = preset_plans_name(setup.plans_name, name)
    keep_other_configurations(plans, setup.preprocessed_folder / f"{plans['plans_name']}.json", setup.configuration)
    return replace(setup, plans=plans, plans_name=str(plans["plans_name"]))


def _heirs(setup: NnunetSetup) -> list[str]:
    """Configurations that inherit from the set-up's, over any number of others."""
    parents = {name: entry.get("inherits_from") for name, entry in setup.plans["configurations"].items()}
    heirs: list[str] = []
    while found := [name for name, parent in parents.items() if parent in (setup.configuration, *heirs) and name not in heirs]:
        heirs += found
    return heirs


def keep_other_configurations(plans: dict[str, Any], path: Path, configuration: str) -> None:
    """Take over from plans of ours on disk the other configurations that have settings of ours.

    Args:
        plans: what is to stand there; changed in place.
        path: of the plans, which need not exist.
        configuration: the one that is made anew.
    """
    if path.is_file():
        for name, entry in read_json(path).get("configurations", {}).items():
            if name != configuration and "nnssl" in entry:
                plans["configurations"][name] = entry


def _overlaid_configuration(setup: NnunetSetup, overlay: dict[str, Any]) -> dict[str, Any]:
    configuration = setup.resolved_configuration()
    if "features" in overlay:
        _set_features(configuration["architecture"]["arch_kwargs"], overlay["features"])
    if overlay.get("network", "plans") == "TransASPPUNet":
        configuration["architecture"] = derive_architecture(configuration["architecture"], configuration["patch_size"])
    if "batch_size" in overlay:
        configuration["batch_size"] = int(overlay["batch_size"])
    if "gpu_memory_target" in overlay:
        configuration |= size_configuration(setup, configuration["architecture"], overlay["gpu_memory_target"])
    if "resampling_fn_probabilities" in overlay:
        given = overlay.get("resampling_fn_probabilities_kwargs", {})
        function, settings = probability_resampling(None, overlay["resampling_fn_probabilities"], given)
        configuration |= {"resampling_fn_probabilities": function.__name__, "resampling_fn_probabilities_kwargs": settings}
    configuration["nnssl"] = MethodConfig.from_dict(overlay.get("nnssl")).to_dict()
    return configuration


def lay_preset(setup: NnunetSetup, preset: str) -> NnunetSetup:
    """Write the plans of `overlaid` beside the set-up's own, whose file is not changed.

    The data identifier stays, so nothing is preprocessed again (and `nnUNetv2_preprocess` must never be run with these plans: it would
    delete the shared data). Arguments, errors and return value as in `overlaid`.
    """
    laid = overlaid(setup, preset)
    remove_leftovers(laid.preprocessed_folder)
    write_json(plans_file(laid), laid.plans)
    return laid


def laid_before(setup: NnunetSetup, preset: str) -> NnunetSetup | None:
    """The set-up under the plans that an overlay has made for its configuration, or None; a warning where it would make others now.

    A set-up whose own plans are those of this overlay is returned as it is: the same overlay is not laid upon itself.

    Raises:
        ConfigError: see `overlaid`.
        StateError: if they are older than the data that they share with others.
    """
    if setup.plans_name.endswith(preset_plans_name("", _read_overlay(preset)[1])) and is_laid(setup):
        return setup
    wanted = overlaid(setup, preset)
    if not is_laid(wanted):
        return None
    path = plans_file(wanted)
    plans = read_json(path)
    laid = replace(wanted, plans=plans)
    refuse_old_plans(laid)
    if plans != json.loads(json.dumps(wanted.plans)):
        logger.warning("%s is used as it is; the preset '%s' would now make other plans: remove the file to lay it again", path, preset)
    return laid


def is_laid(setup: NnunetSetup) -> bool:
    """Whether the plans file of a set-up is there and has our settings for its configuration, and not for another one alone."""
    path = plans_file(setup)
    return path.is_file() and "nnssl" in read_json(path).get("configurations", {}).get(setup.configuration, {})


def plans_file(setup: NnunetSetup, plans_name: str | None = None) -> Path:
    """Where plans of a set-up's dataset lie: its own, or those of another name."""
    return setup.preprocessed_folder / f"{plans_name or setup.plans_name}.json"


def _read_overlay(preset: str) -> tuple[dict[str, Any], str]:
    path = presets_folder() / f"{preset}.json"
    if not path.is_file():
        path = Path(preset)
    if not path.is_file():
        raise ConfigError(f"no preset '{preset}'; there are: {', '.join(preset_names())} (or give the path of a JSON file).")
    overlay = read_json(path)
    if shaping := sorted(set(overlay) & set(SHAPES_DATA)):
        raise ConfigError(
            f"{path} sets '{shaping[0]}', which shapes the data that an overlay shares with its base; plan afresh: nnssl_plan."
        )
    if unknown := sorted(set(overlay) - _KEYS):
        raise ConfigError(f"{path} has the unknown key '{unknown[0]}'; known: {', '.join(sorted(_KEYS))}.")
    _check_values(overlay, path)
    if overlay.get("network", "plans") not in _NETWORKS:
        raise ConfigError(f"{path} asks for the network {overlay['network']!r}; known: {', '.join(_NETWORKS)}.")
    if "gpu_memory_target" in overlay:
        _check_sizing(overlay, path)
    if not isinstance(settings := overlay.get("resampling_fn_probabilities_kwargs", {}), dict):
        raise ConfigError(f"{path} has the resampling_fn_probabilities_kwargs {settings!r}; expected settings by name.")
    if settings and "resampling_fn_probabilities" not in overlay:
        raise ConfigError(f"{path} has 'resampling_fn_probabilities_kwargs' without 'resampling_fn_probabilities', which they belong to.")
    return overlay, path.stem


def _check_values(overlay: dict[str, Any], path: Path) -> None:
    """Refuse values of the wrong kind, and settings that are wrong by themselves."""
    features, batch_size = overlay.get("features", {"base": 1, "max": 1}), overlay.get("batch_size", 1)
    if not isinstance(features, dict) or set(features) != {"base", "max"} or not all(map(_is_count, features.values())):
        raise ConfigError(f"{path} has the features {features!r}; expected whole numbers 'base' and 'max' of at least 1.")
    if not _is_count(batch_size):
        raise ConfigError(f"{path} has the batch_size {batch_size!r}; expected a whole number of at least 1.")
    if not isinstance(name := overlay.get("resampling_fn_probabilities", ""), str):
        raise ConfigError(f"{path} has the resampling_fn_probabilities {name!r}; expected the name of a function.")
    try:
        MethodConfig.from_dict(overlay.get("nnssl"))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _check_sizing(overlay: dict[str, Any], path: Path) -> None:
    target = overlay["gpu_memory_target"]
    if isinstance(target, bool) or not isinstance(target, int | float) or not 0 < target < float("inf"):
        raise ConfigError(f"{path} has the gpu_memory_target {target!r}; expected a number of GB.")
    if overlay.get("network") != "TransASPPUNet" or "batch_size" in overlay:
        raise ConfigError(f"{path}: 'gpu_memory_target' needs \"network\": \"TransASPPUNet\", and decides about 'batch_size' itself.")


def _set_features(arch_kwargs: dict[str, Any], features: dict[str, int]) -> None:
    """Widths base, 2 base, 4 base, ... up to max, as nnU-Net's planner makes them."""
    base, largest = features["base"], features["max"]
    arch_kwargs["features_per_stage"] = [min(base * 2**stage, largest) for stage in range(arch_kwargs["n_stages"])]
