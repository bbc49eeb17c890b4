"""Preprocessed data that several plans of a dataset share: whose they are, and who has taken them over."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_ssl.errors import InputError, StateError
from nnunet_ssl.locations import DEFAULT_PLANS, dataset_number
from nnunet_ssl.nnunet_api.json_file import read_json_or_none
from nnunet_ssl.nnunet_api.missing_plans import missing_plans
from nnunet_ssl.nnunet_api.model_data import first_difference
from nnunet_ssl.nnunet_api.plans_check import check_plans
from nnunet_ssl.nnunet_api.setup import NnunetSetup

logger = logging.getLogger(__name__)

_OVER = "_nnssl_"
"""Stands in the name of an overlay's or a control's plans, behind the name of those that they lie over."""
_OUR_PLANNER = "TransASPPPlanner"
"""Stands in plans that `nnssl_plan` has made, whatever they are called."""


def refuse_old_plans(setup: NnunetSetup) -> None:
    """See that plans of ours which have taken over data still shape them as those plans do that the data are of.

    Where nnU-Net plans a dataset again it makes the data anew, and plans of ours keep the spacing and intensities from before. Other plans
    that differ are only warned of where those that ours lie over do not.

    Raises:
        StateError: with the entry that differs and what to do.
    """
    if not (others := differing_owners(setup)):
        return
    base = setup.plans_name.rpartition(_OVER)[0]
    agreeing = {owner.plans_name for owner in _owners(setup)} - {other.plans_name for other in others}
    if base in agreeing:
        logger.warning(
            "%s and %s name the same data and shape them otherwise; if the first made them last, plan and preprocess again with the other",
            _file(others[0]),
            _file(setup),
        )
        return
    other = min(others, key=lambda found: found.plans_name != base)
    if (difference := first_difference(setup, other)) is not None:
        name, ours, theirs = difference
        raise StateError(
            f"{_file(setup)} makes other images than {_file(other)}, whose data it shares: '{name}' is {ours} in the first, and {theirs} "
            f"in the second; {_remedy(setup, base, other)}"
        )


def differing_owners(setup: NnunetSetup) -> list[NnunetSetup]:
    """Configurations of plans whose data a set-up shares, if they shape these otherwise; none where its plans have data of their own."""
    owners = _owners(setup)
    alike = {owner.plans_name for owner in owners if first_difference(setup, owner) is None}
    return [owner for owner in owners if owner.plans_name not in alike]


def setups_beside(setup: NnunetSetup) -> Iterator[NnunetSetup]:
    """Every configuration of the other plans of the dataset, nnU-Net's default plans first.

    What is no plans, is damaged, or has the form of older versions of nnU-Net is passed over.
    """
    for path in sorted(setup.preprocessed_folder.glob("*.json"), key=lambda path: (path.stem != DEFAULT_PLANS, path.name)):
        if path.stem != setup.plans_name:
            plans = read_json_or_none(path) or {}
            for name in _usable_configurations(plans, path):
                yield replace(setup, plans_name=path.stem, plans=plans, configuration=name)


def _usable_configurations(plans: dict[str, Any], path: Path) -> list[str]:
    configurations = plans.get("configurations")
    if not isinstance(configurations, dict):
        return []
    return [name for name in configurations if _is_usable(plans, name, path)]


def _is_usable(plans: dict[str, Any], configuration: str, path: Path) -> bool:
    content = plans["configurations"][configuration]
    if not isinstance(content, dict) or not {"architecture", "inherits_from"} & set(content):
        return False
    try:
        check_plans(plans, configuration, path)
    except InputError:
        return False
    return True


def _owners(setup: NnunetSetup) -> list[NnunetSetup]:
    """Configurations of other plans that the data of a set-up may be of, where its own plans have taken them over."""
    if not _has_taken_over(setup):
        return []
    return [other for other in setups_beside(setup) if _identifier(other) == _identifier(setup) and not _has_taken_over(other)]


def _has_taken_over(setup: NnunetSetup) -> bool:
    """Whether plans are ours and their data are not: the name of data begins with that of the plans which they were first made by."""
    is_ours = _OVER in setup.plans_name or setup.plans.get("experiment_planner_used") == _OUR_PLANNER
    return is_ours and not _identifier(setup).startswith(f"{setup.plans_name}_")


def _remedy(setup: NnunetSetup, base: str, other: NnunetSetup) -> str:
    """What to do about plans that were laid over `base` ('' for fresh plans) and differ from those of another set-up."""
    number, folder = dataset_number(setup.dataset), setup.preprocessed_folder
    some_agree = len(differing_owners(setup)) < len(_owners(setup))
    if other.plans_name != base and (some_agree or (base and not (folder / f"{base}.json").is_file())):
        return f"one of the two is older than {setup.data_folder}: plan it again, or remove it."
    if not base:
        return f"remove the first and plan again: nnssl_plan -d {number} -gpu_memory_target GB -overwrite_plans_name {setup.plans_name}"
    command = missing_plans(folder, number, setup.configuration, setup.plans_name).rpartition(": ")[2]
    return f"remove the first and make it anew: {command}"


def _file(setup: NnunetSetup) -> Path:
    return setup.preprocessed_folder / f"{setup.plans_name}.json"


def _identifier(setup: NnunetSetup) -> str:
    return str(setup.configuration_manager.data_identifier)
