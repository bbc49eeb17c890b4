"""What makes plans that are not there, as far as their name tells."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from nnunet_ssl.controls import CONTROL_NAMES, control_overlay
from nnunet_ssl.errors import NnsslError
from nnunet_ssl.locations import DEFAULT_PLANS, plans_flag, presets_folder
from nnunet_ssl.nnunet_api.json_file import read_json

OWN_PLANS = "nnUNetTransASPPPlans"
"""Plans that our planner made: the name begins so."""
PLANNERS = {
    "nnUNetResEncUNetMPlans": "nnUNetPlannerResEncM",
    "nnUNetResEncUNetLPlans": "nnUNetPlannerResEncL",
    "nnUNetResEncUNetXLPlans": "nnUNetPlannerResEncXL",
    "nnUNetResEncUNetPlans": "ResEncUNetPlanner",
}
"""nnU-Net's planners by the plans that they make, but for the default one."""


def missing_plans(folder: Path, number: int, configuration: str, plans_name: str) -> str:
    """The message about plans that are not there: the command that makes them, or the names of those that are.

    Where plans lie over others that are missing as well, it is about these.

    Args:
        folder: where plans of the dataset lie.
        number: of the dataset.
        configuration: that is asked for.
        plans_name: name of the plans.
    """
    file, setup = folder / f"{plans_name}.json", f"-d {number} -c {configuration}"
    base, _, overlay = plans_name.rpartition("_nnssl_")  # as an overlay and a control name their plans
    if base and not (folder / f"{base}.json").is_file():
        return missing_plans(folder, number, configuration, base)
    if base and overlay.startswith("control_"):
        control = next((name for name in CONTROL_NAMES if re.fullmatch(rf"{control_overlay(name)}(_\d+)?", overlay)), "NAME")
        return f"{file} is missing; the control of a run makes it: nnssl_run {setup} -f FOLD{plans_flag(base)} --control {control}"
    if base:
        preset = overlay if (presets_folder() / f"{overlay}.json").is_file() else f"{overlay}.json"
        return f"{file} is missing; run: nnssl_prepare {setup}{plans_flag(base)} --preset {preset}"
    if plans_name.startswith(OWN_PLANS):
        return f"{file} is missing; run: nnssl_plan -d {number} -gpu_memory_target GB"
    # nnU-Net's command would make preprocessed data anew that other plans share, and replace nnUNetPlans.json, which may have been edited
    if others := [name for name in _plans_of(folder) if not name.startswith(f"{plans_name}_nnssl_")]:
        if plans_name == DEFAULT_PLANS:
            return f"{file} is missing; give one of these with -p, there are the plans: {', '.join(others)}."
        return f"{file} is missing; correct -p, there are the plans: {', '.join(others)}."
    planner = PLANNERS.get(plans_name)
    return f"{file} is missing; run: nnUNetv2_plan_and_preprocess {setup}" + (f" -pl {planner}" if planner else "")


def _plans_of(folder: Path) -> list[str]:
    """Names of the plans in a folder, in which other JSON files lie as well."""
    found = []
    for path in sorted(folder.glob("*.json")):
        with suppress(NnsslError):
            if isinstance(read_json(path).get("configurations"), dict):
                found.append(path.stem)
    return found
