"""Overlays: plans of our own beside nnU-Net's, with the same data."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from dataclasses import replace
from math import prod
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_setup import CONFIGURATION, DATASET, LABELLED, OVERLAY, PATCH, PLANS, SHAPE, Project, digests, environment, lay_overlay
from torch import nn

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.data.overlay import laid_before, lay_preset, overlaid, preset_names, preset_plans_name
from nnunet_ssl.errors import ConfigError, InputError
from nnunet_ssl.nnunet_api.setup import SHAPES_DATA, NnunetSetup

TORCH = "resample_torch_fornnunet"
GPUS = ["8G", "11G", "24G", "40G", "80G"]


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """nnU-Net's planner forks twelve of them to list a folder."""
    monkeypatch.setattr("nnunetv2.utilities.utils.Pool", ThreadPool)


def laid(project: Project, **changes: Any) -> dict[str, Any]:
    """The configuration that an overlay leads to."""
    overlay = {**copy.deepcopy(OVERLAY), **changes}
    name = lay_overlay(project, {k: v for k, v in overlay.items() if v is not None})
    plans = json.loads((project.preprocessed / DATASET / f"{name}.json").read_text())
    return dict(plans["configurations"][CONFIGURATION])


def build(setup: NnunetSetup) -> nn.Module:
    """The network of plans, as nnU-Net builds it, which knows nothing of overlays."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    configuration = setup.configuration_manager
    network: nn.Module = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        1,
        3,
        deep_supervision=True,
    )
    return network


def test_shipped_presets() -> None:
    assert preset_names() == ["cpu", "default", "demo", "paper", *GPUS]
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


def test_configurations_that_inherit_from_it_stay_as_they_are(project: Project) -> None:
    path = project.preprocessed / DATASET / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    plans["configurations"]["bs4"] = {"inherits_from": CONFIGURATION, "batch_size": 4}
    plans["configurations"]["bs4_large"] = {"inherits_from": "bs4", "patch_size": [24, 24, 24]}
    path.write_text(json.dumps(plans))
    base, laid_over = project.setup("nnUNetPlans"), lay_preset(project.setup("nnUNetPlans"), "cpu")
    for name in ("bs4", "bs4_large", "2d"):
        before, after = (replace(setup, configuration=name).resolved_configuration() for setup in (base, laid_over))
        assert after == before
    assert laid_over.configuration_manager.network_arch_class_name.endswith("TransASPPUNet")


@pytest.mark.parametrize("preset", ["default", "paper", "cpu", "demo", *GPUS])
def test_network_of_every_shipped_preset_is_built_from_its_plans(project: Project, preset: str) -> None:
    name = lay_preset(project.setup("nnUNetPlans"), preset).plans_name
    assert name == f"nnUNetPlans_nnssl_{preset}"
    assert type(build(project.setup(name))).__name__ == "TransASPPUNet"
    shipped = json.loads((Path(__file__).resolve().parents[2] / "plans" / f"{preset}.json").read_text())
    assert project.setup(name).method == MethodConfig.from_dict(shipped["nnssl"])


def shaping(configuration: dict[str, Any]) -> dict[str, Any]:
    return {key: configuration[key] for key in SHAPES_DATA}


@pytest.mark.parametrize("configuration", [CONFIGURATION, "2d"])
def test_preset_of_a_gpu_sizes_patch_and_batch_for_the_data_that_exist(project: Project, configuration: str) -> None:
    base = replace(project.setup("nnUNetPlans"), configuration=configuration)
    before, planned = base.configuration_manager.configuration, overlaid(base, "24G").configuration_manager.configuration
    assert shaping(planned) == shaping(before)
    kwargs = planned["architecture"]["arch_kwargs"]
    assert planned["patch_size"] == [20, 24, 20][-len(planned["patch_size"]) :]  # the images, 18 x 22 x 20, padded to the pooling, 4
    assert kwargs["features_per_stage"] == [32, 64, 128][: kwargs["n_stages"]]
    images = len(LABELLED) * prod(SHAPE)
    assert planned["batch_size"] == max(2, round(images / prod(planned["patch_size"])))  # 24 GB would hold more than the dataset


@pytest.mark.parametrize("size", ["M", "L", "XL"])
@pytest.mark.parametrize("preset", ["default", "11G"])
def test_overlay_over_plans_of_a_residual_encoder(resenc_project: Project, size: str, preset: str) -> None:
    """nnU-Net's ResEnc presets share the data of its default plans; their blocks are kept, and the network is built and runs."""
    plans = f"nnUNetResEncUNet{size}Plans"
    base = resenc_project.setup(plans)
    setup = lay_preset(base, preset)
    assert setup.plans_name == f"{plans}_nnssl_{preset}"
    assert setup.data_folder == resenc_project.setup("nnUNetPlans").data_folder
    planned, configuration = base.configuration_manager.configuration, setup.configuration_manager.configuration
    assert shaping(configuration) == shaping(planned)
    given, kwargs = planned["architecture"]["arch_kwargs"], configuration["architecture"]["arch_kwargs"]
    for name in ("n_stages", "features_per_stage", "kernel_sizes", "strides", "n_blocks_per_stage", "n_conv_per_stage_decoder"):
        assert kwargs[name] == given[name], name
    assert kwargs["n_blocks_per_stage"] == [1, 3, 4]
    network = build(setup)
    with torch.no_grad():
        outputs = network(torch.zeros(1, 1, *configuration["patch_size"]))
    assert type(network).__name__ == "TransASPPUNet"
    assert [tuple(out.shape[2:]) for out in outputs] == [tuple(n // f for n in configuration["patch_size"]) for f in (1, 2)]


@pytest.fixture(scope="module")
def resenc_plans(built_project: Project) -> dict[str, str]:
    """What nnU-Net's own planners make of the tiny dataset."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    folder, made = built_project.preprocessed / DATASET, {}
    for size in ("M", "L", "XL"):
        path = folder / f"nnUNetResEncUNet{size}Plans.json"
        with environment(built_project), contextlib.redirect_stdout(io.StringIO()):
            api.plan_experiments([137], f"nnUNetPlannerResEnc{size}")
        made[path.name] = path.read_text()
        path.unlink()  # the set-up is shared with other tests
    return made


@pytest.fixture
def resenc_project(resenc_plans: dict[str, str], project: Project) -> Project:
    for name, text in resenc_plans.items():
        (project.preprocessed / DATASET / name).write_text(text)
    return project


def test_sized_plans_are_used_again(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    base = project.setup("nnUNetPlans")
    written = lay_preset(base, "8G")
    again = laid_before(base, "8G")
    assert again is not None
    assert again.plans == json.loads(json.dumps(written.plans))
    assert not caplog.records


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_probabilities_may_be_resampled_by_torch(project: Project, device: str) -> None:
    settings = {} if device == "cpu" else {"device": device}
    found = laid(project, resampling_fn_probabilities=TORCH, resampling_fn_probabilities_kwargs=settings)
    base = project.setup("nnUNetPlans").configuration_manager.configuration
    assert shaping(found) == shaping(base)
    assert found["resampling_fn_probabilities"] == TORCH
    assert found["resampling_fn_probabilities_kwargs"].get("device", "cpu") == device


def test_both_resamplings_of_probabilities_agree(project: Project) -> None:
    """nnU-Net's default and its torch function, as an overlay names them, on a smooth map; the borders are treated alike."""
    laid(project, resampling_fn_probabilities=TORCH, resampling_fn_probabilities_kwargs={"device": "cpu"})
    axes = np.meshgrid(*(np.linspace(0, np.pi, n) for n in (12, 10, 8)), indexing="ij")
    maps = (0.5 + 0.5 * np.stack([np.cos(sum(axes)), np.sin(axes[0])])).astype(np.float32)
    results = [
        np.asarray(project.setup(plans).configuration_manager.resampling_fn_probabilities(maps, (18, 15, 12), [1.5] * 3, [1.0] * 3))
        for plans in ("nnUNetPlans", PLANS)
    ]
    np.testing.assert_allclose(results[1], results[0], atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 1}, "unknown key 'learning_rate'; known: batch_size, description, features, gpu_memory_target, network, nnssl"),
        ({"network": "VNet"}, "asks for the network 'VNet'; known: plans, TransASPPUNet"),
        ({"features": {"base": 4}}, "features {'base': 4}; expected whole numbers 'base' and 'max'"),
        ({"features": 32}, "features 32; expected whole numbers"),
        ({"gpu_memory_target": 24}, "decides about 'batch_size' itself"),
        ({"gpu_memory_target": 24, "batch_size": None, "network": "plans"}, 'needs "network": "TransASPPUNet"'),
        ({"gpu_memory_target": "24G", "batch_size": None}, "has the gpu_memory_target '24G'; expected a number of GB"),
        ({"gpu_memory_target": 3, "batch_size": None}, r"gpu_memory_target is 3; expected at least 4 \(GB\)"),
        ({"resampling_fn_data": TORCH}, "sets 'resampling_fn_data', which shapes the data .* plan afresh: nnssl_plan"),
        ({"resampling_fn_seg_kwargs": {"order": 0}}, "sets 'resampling_fn_seg_kwargs', which shapes the data"),
        ({"spacing": [2, 2, 2]}, "sets 'spacing', which shapes the data"),
        ({"resampling_fn_probabilities": "zoom"}, f"resampling_fn_probabilities is 'zoom'; known: {TORCH}, resample_data_or_seg_to_shape"),
        ({"resampling_fn_probabilities_kwargs": {"device": "cuda"}}, "without 'resampling_fn_probabilities'"),
        ({"resampling_fn_probabilities_kwargs": "cuda"}, "has the resampling_fn_probabilities_kwargs 'cuda'; expected settings by name"),
        (
            {"resampling_fn_probabilities": TORCH, "resampling_fn_probabilities_kwargs": {"devise": "cuda"}},
            f"resampling_fn_probabilities_kwargs has 'devise', which {TORCH} does not know",
        ),
        ({"nnssl": {"student": {"cutmix": 2}}}, r"'student\.cutmix' is 2"),
        ({"nnssl": {"student": {"cut_mix": 0}}}, r"unknown nnssl setting 'student\.cut_mix'"),
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


def test_a_second_configuration_leaves_the_first(project: Project) -> None:
    """They share a plans name, and so a file."""
    first = laid_before(project.setup("nnUNetPlans"), "cpu")
    assert first is None
    before = lay_preset(project.setup("nnUNetPlans"), "cpu").plans["configurations"][CONFIGURATION]
    flat = replace(project.setup("nnUNetPlans"), configuration="2d")
    assert laid_before(flat, "cpu") is None  # it was laid over 3d_fullres alone
    second = lay_preset(flat, "cpu").plans["configurations"]
    assert second[CONFIGURATION] == before
    assert "nnssl" in second["2d"]
    assert second["2d"]["architecture"]["network_class_name"].endswith("TransASPPUNet")
    for setup in (project.setup("nnUNetPlans"), flat):
        found = laid_before(setup, "cpu")
        assert found is not None
        assert found.plans["configurations"] == json.loads(json.dumps(second))


def test_the_same_overlay_is_not_laid_upon_itself(project: Project) -> None:
    """As where `-p` names the plans that `--preset` has made."""
    lay_preset(project.setup("nnUNetPlans"), "cpu")
    laid = project.setup("nnUNetPlans_nnssl_cpu")
    found = laid_before(laid, "cpu")
    assert found is laid
    assert laid_before(laid, "paper") is None  # another one can be laid over it
    assert lay_preset(laid, "paper").plans_name == "nnUNetPlans_nnssl_cpu_nnssl_paper"


@pytest.mark.parametrize("change", ["new", "edited"])
def test_a_second_configuration_that_came_or_changed_since_is_laid_as_well(project: Project, change: str) -> None:
    """The plans that the preset has made know it not, or as it was."""
    before = lay_preset(project.setup("nnUNetPlans"), "cpu").plans["configurations"][CONFIGURATION]
    path = project.preprocessed / DATASET / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    if change == "new":
        name, plans["configurations"]["3d_fullres_bs5"] = "3d_fullres_bs5", {"inherits_from": CONFIGURATION, "batch_size": 5}
    else:
        name = "2d"
        plans["configurations"]["2d"]["batch_size"] += 1
    path.write_text(json.dumps(plans))
    second = replace(project.setup("nnUNetPlans"), configuration=name)
    assert laid_before(second, "cpu") is None
    laid_now = lay_preset(second, "cpu").plans["configurations"]
    assert "nnssl" in laid_now[name]
    assert laid_now[CONFIGURATION] == json.loads(json.dumps(before))
    found = laid_before(second, "cpu")
    assert found is not None
    assert found.configuration_manager.network_arch_class_name.endswith("TransASPPUNet")
