"""The plans of a control: those of its run with other settings, under a name of their own, over the same data."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.controls import control_overlay
from nnunet_ssl.data.files import remove_leftovers, write_json
from nnunet_ssl.data.overlay import keep_other_configurations, plans_file, preset_plans_name
from nnunet_ssl.nnunet_api.json_file import read_json
from nnunet_ssl.nnunet_api.setup import NnunetSetup


def control_plans_name(plans: str, name: str, *, epochs: int | None = None) -> str:
    """Plans name of a control, for instance `nnUNetPlans_nnssl_control_random_order`.

    Args:
        plans: of the run.
        name: of the control.
        epochs: of a control that has a length of its own.
    """
    return preset_plans_name(plans, control_overlay(name)) + ("" if epochs is None else f"_{epochs}")


def lay_control_plans(setup: NnunetSetup, plans_name: str, method: MethodConfig) -> None:
    """Write the run's plans with the control's settings beside them; other configurations that stand there stay.

    Args:
        setup: of the run.
        plans_name: of the control.
        method: its settings.
    """
    plans = copy.deepcopy(setup.plans)
    plans["configurations"][setup.configuration] = {**setup.resolved_configuration(), "nnssl": method.to_dict()}
    plans["plans_name"] = plans_name
    path = plans_file(setup, plans_name)
    keep_other_configurations(plans, path, setup.configuration)
    write_unless_there(path, plans)


def write_unless_there(path: Path, content: dict[str, Any]) -> None:
    """Write JSON, unless the file has this content."""
    if not (path.is_file() and read_json(path) == content):
        remove_leftovers(path.parent)
        write_json(path, content)
