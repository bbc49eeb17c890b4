"""Plans of ours that share data of nnU-Net's plans: once these are planned again, ours are refused until they are made anew."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import pytest
from tiny_setup import CONFIGURATION, DATASET, IDENTIFIER, PLANS, Project

from nnunet_ssl.data.fresh_plans import plan_afresh
from nnunet_ssl.data.overlay import laid_before, lay_preset
from nnunet_ssl.errors import StateError
from nnunet_ssl.nnunet_api.load_setup import load_setup
from nnunet_ssl.pseudolabel.control_plans import control_plans_name

CPU = "nnUNetPlans_nnssl_cpu"
FRESH = "nnUNetTransASPPPlans_24G"
Change = Callable[[dict[str, Any], dict[str, Any]], Any]


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """nnU-Net's planner forks twelve of them to list a folder."""
    monkeypatch.setattr("nnunetv2.utilities.utils.Pool", ThreadPool)


def file_of(project: Project, plans: str) -> Path:
    return project.preprocessed / DATASET / f"{plans}.json"


def change(project: Project, how: Change, plans: str = "nnUNetPlans", *, into: str | None = None) -> None:
    """Edit plans, or write them edited under another name."""
    content = json.loads(file_of(project, plans).read_text())
    how(content, content["configurations"][CONFIGURATION])
    content["plans_name"] = into or plans
    file_of(project, into or plans).write_text(json.dumps(content))


def coarser(plans: dict[str, Any], configuration: dict[str, Any]) -> None:
    configuration["spacing"] = [1.0, 1.0, 2.0]


def brighter(plans: dict[str, Any], configuration: dict[str, Any]) -> None:
    plans["foreground_intensity_properties_per_channel"]["0"]["mean"] = 7.5


def as_ct(plans: dict[str, Any], configuration: dict[str, Any]) -> None:
    configuration["normalization_schemes"] = ["CTNormalization"]


def larger_batch(plans: dict[str, Any], configuration: dict[str, Any]) -> None:
    configuration["batch_size"] += 1


def refused(project: Project, plans: str) -> str:
    with pytest.raises(StateError) as raised:
        project.setup(plans)
    message = str(raised.value)
    assert "\n" not in message
    return message.replace(f"{project.preprocessed / DATASET}/", "")


@pytest.fixture
def laid(project: Project) -> Project:
    """With the overlay `cpu` over nnU-Net's plans of CT images, as those of the set-up are."""
    project.plans_file.unlink()
    change(project, as_ct)
    lay_preset(project.setup("nnUNetPlans"), "cpu")
    return project


# ---- an overlay


def test_overlay_whose_base_was_planned_with_another_spacing(laid: Project) -> None:
    change(laid, coarser)
    assert refused(laid, CPU) == (
        f"{CPU}.json makes other images than nnUNetPlans.json, whose data it shares: 'spacing' is [1.0, 1.0, 1.0] in the first, and "
        "[1.0, 1.0, 2.0] in the second; remove the first and make it anew: nnssl_prepare -d 137 -c 3d_fullres --preset cpu"
    )


def test_overlay_of_ct_whose_base_was_planned_with_other_intensities(laid: Project) -> None:
    change(laid, brighter)
    assert "'intensities' is" in refused(laid, CPU)


def test_command_of_the_message_lays_the_preset_again(laid: Project) -> None:
    change(laid, coarser)
    file_of(laid, CPU).unlink()
    lay_preset(laid.setup("nnUNetPlans"), "cpu")
    assert laid.setup(CPU).configuration_manager.spacing == [1.0, 1.0, 2.0]


def test_preset_that_was_laid_before_is_refused_too(laid: Project) -> None:
    """`nnssl_run --preset` takes plans that are there."""
    change(laid, coarser)
    with pytest.raises(
        StateError, match=r"'spacing' is .* remove the first and make it anew: nnssl_prepare -d 137 -c 3d_fullres --preset cpu$"
    ):
        laid_before(laid.setup("nnUNetPlans"), "cpu")


@pytest.mark.parametrize("harmless", [larger_batch, lambda plans, c: c.update(patch_size=[8, 8, 8]), lambda plans, c: None])
def test_overlay_of_the_same_images(laid: Project, harmless: Change) -> None:
    change(laid, harmless)
    assert laid.setup(CPU).plans_name == CPU


def test_intensities_that_no_normalisation_reads(project: Project) -> None:
    """Of MR images; a dataset that was planned again with more labels has others."""
    change(project, brighter)
    assert project.setup().plans_name == PLANS


def test_entry_of_another_configuration_that_was_laid_earlier(laid: Project) -> None:
    """An overlay that is laid anew for one configuration keeps what it is for others, also where that is old by now."""
    change(laid, coarser)
    content = json.loads(file_of(laid, "nnUNetPlans").read_text())
    content["configurations"]["small"] = {"inherits_from": CONFIGURATION, "batch_size": 3}
    file_of(laid, "nnUNetPlans").write_text(json.dumps(content))
    lay_preset(load_setup("137", "small", "nnUNetPlans"), "cpu")
    assert load_setup("137", "small", CPU).configuration_manager.spacing == [1.0, 1.0, 2.0]
    assert "-c 3d_fullres --preset cpu" in refused(laid, CPU)


def test_plans_of_a_control(laid: Project) -> None:
    name = control_plans_name(CPU, "supervised")
    change(laid, lambda plans, c: plans.update(plans_name=name), CPU, into=name)
    assert laid.setup(name).plans_name == name
    change(laid, coarser)
    assert refused(laid, name).endswith(
        f"remove the first and make it anew: nnssl_run -d 137 -c 3d_fullres -f FOLD -p {CPU} --control supervised"
    )


# ---- fresh plans


@pytest.mark.parametrize("name", [FRESH, "mine"])
def test_fresh_plans_that_share_data(project: Project, name: str) -> None:
    plan_afresh("137", gpu_memory_target=24, plans_name=name)
    assert project.setup(name).data_folder.name == IDENTIFIER
    change(project, coarser)
    assert refused(project, name).endswith(
        f"remove the first and plan again: nnssl_plan -d 137 -gpu_memory_target GB -overwrite_plans_name {name}"
    )


def test_fresh_plans_with_data_of_their_own(project: Project) -> None:
    plan_afresh("137", gpu_memory_target=24)
    own = f"{FRESH}_{CONFIGURATION}"
    change(project, lambda plans, c: c.update(data_identifier=own), FRESH)
    shutil.copytree(project.preprocessed / DATASET / IDENTIFIER, project.preprocessed / DATASET / own)
    change(project, coarser)
    change(project, lambda plans, c: (coarser(plans, c), c.update(data_identifier=own)), FRESH, into="nnUNetPlans_nnssl_old")
    assert project.setup(FRESH).data_folder.name == own  # whatever others that share them say
    assert "makes other images than nnUNetTransASPPPlans_24G.json" in refused(project, "nnUNetPlans_nnssl_old")


def test_who_only_looks_is_warned(laid: Project, caplog: pytest.LogCaptureFixture) -> None:
    """A report, or the state of a run, needs nothing of the data that have changed."""
    change(laid, coarser)
    refused(laid, CPU)
    assert load_setup("137", CONFIGURATION, CPU, only_looks=True).plans_name == CPU
    assert any("makes other images than" in message for message in caplog.messages)


# ---- other plans beside them


def test_nnunets_plans_that_contradict_each_other(laid: Project, caplog: pytest.LogCaptureFixture) -> None:
    """Its ResEnc presets share the data of its default plans; which of them made the data no file tells."""
    resenc = "nnUNetResEncUNetMPlans"
    change(laid, larger_batch, into=resenc)
    assert laid.setup(CPU).plans_name == CPU
    change(laid, coarser, resenc)
    assert caplog.messages == []
    assert laid.setup(CPU).plans_name == CPU
    assert any(f"{resenc}.json and " in message and "name the same data" in message for message in caplog.messages)
    change(laid, coarser)
    assert refused(laid, CPU).endswith("--preset cpu")


@pytest.mark.parametrize(
    "other",
    [
        lambda plans, c: c.update(patch_size=[8, 8, 8]),  # somebody's own, with the same data
        lambda plans, c: (coarser(plans, c), c.update(data_identifier="mine_3d_fullres")),
        lambda plans, c: plans.update(configurations={CONFIGURATION: "small"}),
        lambda plans, c: plans.pop("image_reader_writer"),
    ],
)
def test_plans_that_say_nothing_against_an_overlay(laid: Project, other: Change) -> None:
    change(laid, other, into="mine")
    assert laid.setup(CPU).plans_name == CPU


def test_overlays_that_are_old_say_nothing_against_new_ones(laid: Project) -> None:
    for name in ("nnUNetPlans_nnssl_old", FRESH):
        change(laid, lambda plans, c: plans.update(experiment_planner_used="TransASPPPlanner"), CPU, into=name)
    change(laid, coarser)
    lay_preset(laid.setup("nnUNetPlans"), "cpu")
    assert laid.setup(CPU).plans_name == CPU
    assert "nnssl_prepare" in refused(laid, "nnUNetPlans_nnssl_old")
    assert "nnssl_plan" in refused(laid, FRESH)


def test_plans_of_nnunet_and_of_a_user_are_their_own_affair(laid: Project) -> None:
    change(laid, coarser)
    change(laid, larger_batch, into="mine")
    for plans in ("nnUNetPlans", "mine"):
        assert laid.setup(plans).plans_name == plans
