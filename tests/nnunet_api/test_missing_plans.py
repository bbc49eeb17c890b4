"""Plans that are not there: the message names the command that makes these plans and no others."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path

import nnunetv2
import pytest
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from tiny_setup import DATASET, PLANS, Project

from nnunet_ssl.controls import CONTROLS, FROM_SCRATCH
from nnunet_ssl.data.overlay import preset_names, preset_plans_name
from nnunet_ssl.errors import SetupError
from nnunet_ssl.nnunet_api.missing_plans import PLANNERS
from nnunet_ssl.pseudolabel.control_plans import control_plans_name

SET_UP = "-d 137 -c 3d_fullres"


def said(project: Project, plans: str) -> str:
    """The message about plans that are missing, without the folder."""
    with pytest.raises(SetupError) as raised:
        project.setup(plans)
    return str(raised.value).removeprefix(f"{project.preprocessed / DATASET}/")


def test_default_plans(project: Project) -> None:
    (project.preprocessed / DATASET / "nnUNetPlans.json").unlink()
    wanted = f"nnUNetPlans.json is missing; run: nnUNetv2_plan_and_preprocess {SET_UP}"
    assert said(project, "nnUNetPlans") == wanted
    assert said(project, preset_plans_name("nnUNetPlans", "cpu")) == wanted  # an overlay needs its base first


@pytest.mark.parametrize("preset", preset_names())
def test_preset(project: Project, preset: str) -> None:
    name = preset_plans_name("nnUNetPlans", preset)
    assert said(project, name) == f"{name}.json is missing; run: nnssl_prepare {SET_UP} --preset {preset}"


def test_overlay_of_ones_own_over_other_plans(project: Project) -> None:
    folder = project.preprocessed / DATASET
    shutil.copy(folder / "nnUNetPlans.json", folder / "nnUNetResEncUNetMPlans.json")
    name = preset_plans_name("nnUNetResEncUNetMPlans", "mine")
    assert said(project, name) == f"{name}.json is missing; run: nnssl_prepare {SET_UP} -p nnUNetResEncUNetMPlans --preset mine.json"


@pytest.mark.parametrize(("control", "epochs"), [*((name, None) for name in CONTROLS), (FROM_SCRATCH, 40)])
def test_control(project: Project, control: str, epochs: int | None) -> None:
    name = control_plans_name(PLANS, control, epochs=epochs)
    wanted = f"{name}.json is missing; the control of a run makes it: nnssl_run {SET_UP} -f FOLD -p {PLANS} --control {control}"
    assert said(project, name) == wanted


def test_fresh_plans_of_ours(project: Project) -> None:
    wanted = "nnUNetTransASPPPlans_24G.json is missing; run: nnssl_plan -d 137 -gpu_memory_target GB"
    assert said(project, "nnUNetTransASPPPlans_24G") == wanted


@pytest.mark.parametrize(("plans", "planner"), PLANNERS.items())
def test_planners_of_nnunet(project: Project, plans: str, planner: str) -> None:
    found = recursive_find_python_class(
        str(Path(nnunetv2.__file__).parent / "experiment_planning"), planner, "nnunetv2.experiment_planning"
    )
    assert inspect.signature(found).parameters["plans_name"].default == plans
    others = f"{plans}.json is missing; correct -p, there are the plans: nnUNetPlans, {PLANS}."
    assert said(project, plans) == others  # the planner's command would make data anew that these plans share
    for path in (project.preprocessed / DATASET).glob("nnUNetPlans*.json"):
        path.unlink()
    assert said(project, plans) == f"{plans}.json is missing; run: nnUNetv2_plan_and_preprocess {SET_UP} -pl {planner}"


def test_plans_of_another_planner_alone(project: Project) -> None:
    """nnU-Net's default planner would remove the preprocessed data that they share with its own plans."""
    folder = project.preprocessed / DATASET
    (folder / "nnUNetPlans.json").rename(folder / "nnUNetResEncUNetMPlans.json")
    wanted = "nnUNetPlans.json is missing; give one of these with -p, there are the plans: nnUNetResEncUNetMPlans."
    assert said(project, "nnUNetPlans") == wanted


def test_unknown_plans(project: Project) -> None:
    """A typing error must not lead to a command that replaces plans which somebody has edited."""
    assert said(project, "nnUNetPlan") == f"nnUNetPlan.json is missing; correct -p, there are the plans: nnUNetPlans, {PLANS}."
    for path in (project.preprocessed / DATASET).glob("nnUNetPlans*.json"):
        path.unlink()
    assert said(project, "nnUNetPlan") == f"nnUNetPlan.json is missing; run: nnUNetv2_plan_and_preprocess {SET_UP}"
