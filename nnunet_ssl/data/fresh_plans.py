"""Plans for TransASPPUNet made afresh, which share preprocessed data with plans that shape them alike."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.data.files import write_json
from nnunet_ssl.errors import StateError
from nnunet_ssl.locations import preprocessed_root, results_root
from nnunet_ssl.nnunet_api.dataset_name import resolve_dataset
from nnunet_ssl.nnunet_api.json_file import read_json
from nnunet_ssl.nnunet_api.missing_plans import OWN_PLANS
from nnunet_ssl.nnunet_api.planning import plan_dataset
from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.nnunet_api.shared_data import differing_owners, setups_beside


@dataclass(frozen=True)
class FreshPlans:
    """A plans file that stands on disk, with its configurations; second stages of cascades, which we do not support, are left out."""

    path: Path
    configurations: tuple[NnunetSetup, ...]
    is_new: bool
    """Whether the file was written just now; it may have been there, the same."""

    @property
    def without_data(self) -> list[str]:
        """Configurations that `nnUNetv2_preprocess` is still to be run for."""
        return [setup.configuration for setup in self.configurations if not _has_data(setup)]


def default_plans_name(gpu_memory_target: float, torch_resampling: str | None = None) -> str:
    """Name of fresh plans, for instance `nnUNetTransASPPPlans_24G`; `_torchres` behind it is nnU-Net's own word."""
    return f"{OWN_PLANS}_{gpu_memory_target:g}G" + ("" if torch_resampling is None else "_torchres")


def plan_afresh(
    dataset: str,
    *,
    gpu_memory_target: float,
    plans_name: str | None = None,
    target_spacing: Sequence[float] | None = None,
    torch_resampling: str | None = None,
) -> FreshPlans:
    """Plan a dataset for TransASPPUNet and a GPU, and write the plans under a name of their own.

    A configuration whose data some other plans of the dataset shape exactly alike (spacing, normalisation, resampling) takes over
    their data identifier, so that nothing is preprocessed twice; any other has one of its own.

    Args:
        dataset: id or name.
        gpu_memory_target: in GB.
        plans_name: None is `default_plans_name`.
        target_spacing: see `plan_dataset`.
        torch_resampling: see `plan_dataset`.

    Raises:
        SetupError, ConfigError: see `plan_dataset`.
        StateError: if other plans stand under that name; they are not touched.
    """
    results_root()
    name = resolve_dataset(dataset)
    plans_name = plans_name or default_plans_name(gpu_memory_target, torch_resampling)
    plans = plan_dataset(
        name, plans_name=plans_name, gpu_memory_target=gpu_memory_target, target_spacing=target_spacing, torch_resampling=torch_resampling
    )
    folder = preprocessed_root() / name
    path, dataset_json = folder / f"{plans_name}.json", read_json(folder / "dataset.json")
    for setup in _configurations(name, plans, dataset_json):
        configuration = plans["configurations"][setup.configuration]
        configuration["nnssl"] = MethodConfig().to_dict()
        configuration["data_identifier"] = _shared_identifier(setup) or configuration["data_identifier"]
    is_new = not path.is_file()
    if is_new:
        write_json(path, plans)
    else:
        plans = _unchanged(path, plans)
    return FreshPlans(path, tuple(_configurations(name, plans, dataset_json)), is_new)


def _configurations(dataset: str, plans: dict[str, Any], dataset_json: dict[str, Any]) -> Iterator[NnunetSetup]:
    for configuration in plans["configurations"]:
        setup = NnunetSetup(dataset, str(plans.get("plans_name")), configuration, plans, dataset_json)
        if setup.configuration_manager.previous_stage_name is None:
            yield setup


def _shared_identifier(setup: NnunetSetup) -> str | None:
    """Data identifier of other plans that shape the data alike: best where the data are there, nnU-Net's default plans first.

    Plans that are older than data which they have taken over do not tell how these are shaped.
    """
    twins = [other for other in setups_beside(setup) if _shaped(other) == _shaped(setup) and not differing_owners(other)]
    twins.sort(key=_has_data, reverse=True)
    return str(twins[0].configuration_manager.data_identifier) if twins else None


def _shaped(setup: NnunetSetup) -> dict[str, Any]:
    return {key: value for key, value in setup.shaping().items() if key != "data_identifier"}


def _has_data(setup: NnunetSetup) -> bool:
    return any(setup.data_folder.glob("*.b2nd"))


def _unchanged(path: Path, plans: dict[str, Any]) -> dict[str, Any]:
    """The plans in the file, where they are the planned ones; with whom they share data was decided when they were written."""
    written = read_json(path)
    compared = []
    for content in (written, plans):
        content = copy.deepcopy(content)
        for configuration in content.get("configurations", {}).values():
            configuration.pop("data_identifier", None)
        compared.append(content)
    if compared[0] != compared[1]:
        raise StateError(
            f"{path} holds other plans than would be made now; give a new name with -overwrite_plans_name, or remove the file."
        )
    return written
