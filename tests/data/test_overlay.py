"""Overlays: plans of our own beside nnU-Net's, with the same data."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from tiny_setup import CONFIGURATION, DATASET, OVERLAY, PATCH, PLANS, Project, digests, lay_overlay

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.data.overlay import laid_before, lay_preset, overlaid, preset_names, preset_plans_name
from nnunet_ssl.errors import ConfigError, InputError


def laid(project: Project, **changes: Any) -> dict[str, Any]:
    """The configuration that an overlay leads to."""
    overlay = {**copy.deepcopy(OVERLAY), **changes}
    name = lay_overlay(project, {k: v for k, v in overlay.items() if v is not None})
    plans = json.loads((project.preprocessed / DATASET / f"{name}.json").read_text())
    return dict(plans["configurations"][CONFIGURATION])


def test_shipped_presets() -> None:
    assert set(preset_names()) >= {"default", "paper", "cpu", "demo"}
    assert preset_plans_name("nnUNetResEncUNetMPlans", "cpu") == "nnUNetResEncUNetMPlans_nnssl_cpu"


def test_overlay_changes_what_it_names(project: Project) -> None:
    base = json.loads((project.preprocessed / DATASET / "nnUNetPlans.json").read_text())
    found = laid(project)
    assert found["architecture"]["network_class_name"].endswith("TransASPPUNet")
    assert found["architecture"]["arch_kwargs"]["features_per_stage"] == [4, 8, 8]
    assert found["batch_size"] == 2
    assert MethodConfig.from_dict(found["nnssl"]).student.length.num_epochs == 2
    assert MethodConfig.from_dict(found["nnssl"]).to_dict() == found["nnssl"]  # nothing is left to defaults
    same = set(base["configurations"][CONFIGURATION]) - {"architecture", "batch_size", "nnssl"}
    assert {k: found[k] for k in same} == {k: base["configurations"][CONFIGURATION][k] for k in same}
    plans = json.loads(project.plans_file.read_text())
    assert plans["plans_name"] == PLANS
    assert plans["configurations"]["2d"] == base["configurations"]["2d"]


def test_base_plans_and_data_are_untouched(project: Project) -> None:
    before = digests(project.labelled_files())
    laid(project, batch_size=7)
    assert digests(project.labelled_files()) == before


def test_same_overlay_same_bytes(project: Project) -> None:
    before = project.plans_file.read_bytes()
    assert lay_overlay(project) == PLANS
    assert project.plans_file.read_bytes() == before


def test_network_of_the_plans_can_stay(project: Project) -> None:
    found = laid(project, network="plans")
    assert found["architecture"]["network_class_name"].endswith("PlainConvUNet")
    assert found["architecture"]["arch_kwargs"]["features_per_stage"] == [4, 8, 8]


def test_widths_of_the_plans_can_stay(project: Project) -> None:
    assert laid(project, features=None)["architecture"]["arch_kwargs"]["features_per_stage"] == [32, 64, 128]


def test_inherited_configuration_is_written_out(project: Project) -> None:
    path = project.preprocessed / DATASET / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    plans["configurations"]["wide"] = plans["configurations"][CONFIGURATION]
    plans["configurations"][CONFIGURATION] = {"inherits_from": "wide", "batch_size": 3}
    path.write_text(json.dumps(plans))
    found = laid(project, batch_size=None)
    assert "inherits_from" not in found
    assert found["batch_size"] == 3
    assert found["patch_size"] == PATCH


@pytest.mark.parametrize("preset", ["default", "paper", "cpu", "demo"])
def test_network_of_every_shipped_preset_is_built_from_its_plans(project: Project, preset: str) -> None:
    """By nnU-Net, which knows nothing of overlays."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    name = lay_preset(project.setup("nnUNetPlans"), preset).plans_name
    assert name == f"nnUNetPlans_nnssl_{preset}"
    configuration = project.setup(name).configuration_manager
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        1,
        3,
        deep_supervision=True,
    )
    assert type(network).__name__ == "TransASPPUNet"
    shipped = json.loads((Path(__file__).resolve().parents[2] / "plans" / f"{preset}.json").read_text())
    assert project.setup(name).method == MethodConfig.from_dict(shipped["nnssl"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 1}, "unknown key 'learning_rate'; known: batch_size, description, features, network, nnssl"),
        ({"network": "VNet"}, "asks for the network 'VNet'; known: plans, TransASPPUNet"),
        ({"features": {"base": 4}}, "'features' takes .* found {'base': 4}"),
        ({"features": 32}, "'features' takes"),
        ({"nnssl": {"student": {"cutmix": 2}}}, r"'student\.cutmix' is 2"),
        ({"nnssl": {"student": {"cut_mix": 0}}}, r"unknown setting 'nnssl\.student\.cut_mix'"),
    ],
)
def test_overlay_that_is_wrong(project: Project, changes: dict[str, Any], message: str) -> None:
    before = project.plans_file.read_bytes()
    with pytest.raises(ConfigError, match=message):
        laid(project, **changes)
    assert project.plans_file.read_bytes() == before


def test_preset_that_does_not_exist(project: Project) -> None:
    with pytest.raises(ConfigError, match="no preset 'fast'; there are: cpu, default"):
        lay_preset(project.setup("nnUNetPlans"), "fast")


def test_overlay_that_is_no_json(project: Project, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("{")
    with pytest.raises(InputError, match=r"mine\.json cannot be read"):
        lay_preset(project.setup("nnUNetPlans"), str(tmp_path / "mine.json"))


def test_looking_at_an_overlay_writes_nothing(project: Project) -> None:
    base = project.setup("nnUNetPlans")
    before = sorted(base.preprocessed_folder.iterdir())
    seen = overlaid(base, "cpu")
    assert sorted(base.preprocessed_folder.iterdir()) == before
    assert laid_before(base, "cpu") is None
    assert lay_preset(base, "cpu").plans == seen.plans


def test_overlay_laid_before_is_used_and_a_change_of_the_preset_is_said(
    project: Project, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base, preset = project.setup("nnUNetPlans"), tmp_path / "mine.json"
    preset.write_text(json.dumps({"nnssl": {"student": {"cutmix": 0.25}}}))
    lay_preset(base, str(preset))
    found = laid_before(base, str(preset))
    assert found is not None
    assert found.method.student.cutmix == 0.25
    assert not caplog.records
    preset.write_text(json.dumps({"nnssl": {"student": {"cutmix": 0.75}}}))
    found = laid_before(base, str(preset))
    assert found is not None
    assert found.method.student.cutmix == 0.25
    assert "would now make other plans" in caplog.text
