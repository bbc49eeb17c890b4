"""Patch and batch for a GPU: for a dataset like BraTS, as the documentation shows them, and where planning must refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from brats_like import CROPPED, DATASET, NUM_CASES, write_brats_like

from nnunet_ssl.errors import ConfigError, SetupError
from nnunet_ssl.networks.gpu_memory import GIB, training_bytes, usable_bytes
from nnunet_ssl.networks.network_count import NetworkCount, count_network
from nnunet_ssl.nnunet_api.planning import plan_dataset, size_configuration
from nnunet_ssl.nnunet_api.setup import NnunetSetup

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "choose-settings.md"
TARGETS = (8, 11, 24, 40, 80)


@pytest.fixture
def brats_like(nnunet_environment: Any) -> Any:
    write_brats_like(nnunet_environment.raw, nnunet_environment.preprocessed)
    return nnunet_environment


def planned(target: float = 24, **options: Any) -> dict[str, Any]:
    return plan_dataset(DATASET, plans_name="fresh", gpu_memory_target=target, **options)


def counted(configuration: dict[str, Any], patch: list[int] | None = None) -> NetworkCount:
    kwargs = configuration["architecture"]["arch_kwargs"]
    return count_network(kwargs, input_channels=4, num_classes=4, patch_size=patch or configuration["patch_size"])


@pytest.mark.parametrize("target", TARGETS)
def test_patch_and_batch_fill_the_gpu_and_no_more(brats_like: Any, target: int) -> None:
    for name, configuration in planned(target)["configurations"].items():
        count, batch = counted(configuration), configuration["batch_size"]
        assert batch >= 2, name
        assert training_bytes(count, batch) <= 0.95 * target * GIB
        assert training_bytes(count, batch + 1) > 0.95 * target * GIB  # 100 cases never limit the batch here


def test_patch_is_the_largest_of_which_two_fit(brats_like: Any) -> None:
    """At 11 GB a patch of the image's size does not fit, nor does any with one axis a step longer."""
    configuration = planned(11)["configurations"]["3d_fullres"]
    patch = configuration["patch_size"]
    assert any(size < whole for size, whole in zip(patch, CROPPED, strict=True))
    for axis in range(3):
        longer = [size + (32 if axis == i else 0) for i, size in enumerate(patch)]
        assert training_bytes(counted(configuration, longer), 2) > usable_bytes(11)


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_sizes_are_the_ones_that_the_documentation_shows(brats_like: Any, configuration: str) -> None:
    column = {"3d_fullres": (1, 2), "2d": (3, 4)}[configuration]
    shown = {int(cells[0]): cells for cells in re.findall(r"^\| (\d+) GB \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|", PAGE.read_text(), re.M)}
    assert tuple(shown) == TARGETS
    for target in TARGETS:
        made = planned(target)["configurations"][configuration]
        found = (" x ".join(map(str, made["patch_size"])), str(made["batch_size"]))
        assert found == tuple(shown[target][i] for i in column)


def test_everything_but_sizes_and_network_is_nnunets(brats_like: Any) -> None:
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

    stock = ExperimentPlanner(DATASET, plans_name="stock").plan_experiment()["configurations"]["3d_fullres"]
    ours = planned()["configurations"]["3d_fullres"]
    different = {"data_identifier", "patch_size", "batch_size", "architecture", "batch_dice"}
    plain = json.loads(json.dumps(stock))
    assert {k: ours[k] for k in set(ours) - different} == {k: plain[k] for k in set(plain) - different}
    kwargs = ours["architecture"]["arch_kwargs"]
    assert ours["architecture"]["network_class_name"].endswith("TransASPPUNet")
    assert kwargs["features_per_stage"] == [32, 64, 128, 256, 320, 320]
    assert (kwargs["n_blocks_per_stage"], kwargs["n_conv_per_stage_decoder"]) == ([1] * 6, [1] * 5)


def test_only_a_few_cases_limit_the_batch(brats_like: Any) -> None:
    path = brats_like.raw / DATASET / "dataset.json"
    content = json.loads(path.read_text())
    content["numTraining"] = 4
    path.write_text(json.dumps(content))
    configuration = planned(80)["configurations"]["3d_fullres"]
    patch_voxels = 160 * 192 * 160
    assert configuration["patch_size"] == [160, 192, 160]
    assert configuration["batch_size"] == round(4 * 137 * 165 * 136 / patch_voxels) == 3


def test_target_spacing(brats_like: Any) -> None:
    assert planned(target_spacing=(2.0, 2.0, 2.0))["configurations"]["3d_fullres"]["spacing"] == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_torch_resampling(brats_like: Any, device: str) -> None:
    configuration = planned(torch_resampling=device)["configurations"]["2d"]
    for what, is_seg in (("data", False), ("seg", True), ("probabilities", False)):
        assert configuration[f"resampling_fn_{what}"] == "resample_torch_fornnunet"
        settings = configuration[f"resampling_fn_{what}_kwargs"]
        assert settings["is_seg"] is is_seg
        assert settings.get("device", "cpu") == device


def test_thick_slices(nnunet_environment: Any) -> None:
    write_brats_like(nnunet_environment.raw, nnunet_environment.preprocessed, shape=[12, 256, 216], spacing=(8.0, 1.5, 1.5))
    kwargs = planned(11)["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    assert kwargs["kernel_sizes"][0] == [1, 3, 3]
    assert kwargs["strides"][1] == [1, 2, 2]


# ---- for data that exist


def existing(architecture_depth: dict[str, Any], configuration: str = "3d_fullres") -> tuple[NnunetSetup, dict[str, Any]]:
    """The set-up of plans for 24 GB, and a TransASPPUNet of another depth for their patch."""
    plans = planned()
    content = json.loads((Path(planned_folder()) / "dataset.json").read_text())
    setup = NnunetSetup(DATASET, "fresh", configuration, plans, content)
    architecture = json.loads(json.dumps(plans["configurations"][configuration]["architecture"]))
    architecture["arch_kwargs"] |= architecture_depth
    return setup, architecture


def planned_folder() -> Path:
    from nnunet_ssl.locations import preprocessed_root

    return preprocessed_root() / DATASET


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_sizes_for_existing_data_are_those_of_fresh_plans(brats_like: Any, configuration: str) -> None:
    setup, architecture = existing({}, configuration)
    for target in TARGETS:
        fresh = planned(target)["configurations"][configuration]
        assert size_configuration(setup, architecture, target) == {k: fresh[k] for k in ("patch_size", "batch_size", "architecture")}


def test_depth_widths_and_settings_of_the_network_stay(brats_like: Any) -> None:
    own = {"n_blocks_per_stage": [1, 3, 4, 6, 6, 6], "features_per_stage": [16, 32, 64, 128, 200, 200], "decoder_dropout": 0.4}
    setup, architecture = existing(own)
    kwargs = size_configuration(setup, architecture, 8)["architecture"]["arch_kwargs"]
    stages = kwargs["n_stages"]
    assert kwargs["n_blocks_per_stage"] == [1, 3, 4, 6, 6, 6][:stages]
    assert kwargs["n_conv_per_stage_decoder"] == [1] * (stages - 1)
    assert kwargs["features_per_stage"] == [16, 32, 64, 128, 200, 200][:stages]
    assert kwargs["decoder_dropout"] == 0.4


def test_planning_leaves_no_file_but_nnunets_copy(brats_like: Any) -> None:
    planned()
    assert sorted(path.name for path in planned_folder().iterdir()) == ["dataset.json", "dataset_fingerprint.json"]
    assert json.loads((planned_folder() / "dataset.json").read_text())["numTraining"] == NUM_CASES


# ---- refusals


@pytest.mark.parametrize("target", [3.9, 0, -8, float("nan")])
def test_target_out_of_range(brats_like: Any, target: float) -> None:
    with pytest.raises(ConfigError, match=r"gpu_memory_target is .*; expected at least 4 \(GB\)"):
        planned(target)


def test_images_too_small_for_two_resolutions(nnunet_environment: Any) -> None:
    write_brats_like(nnunet_environment.raw, nnunet_environment.preprocessed, shape=[5, 6, 5])
    with pytest.raises(ConfigError, match="images of 5 x 6 x 5 voxels, or a GPU of 24 GB, are too small for TransASPPUNet: a patch of"):
        planned()


def test_network_too_heavy_for_the_gpu(brats_like: Any) -> None:
    setup, architecture = existing({"features_per_stage": [512] * 6})
    with pytest.raises(ConfigError, match="a GPU of 4 GB, are too small for TransASPPUNet"):
        size_configuration(setup, architecture, 4)


def test_missing_fingerprint(brats_like: Any) -> None:
    (planned_folder() / "dataset_fingerprint.json").unlink()
    with pytest.raises(SetupError, match=r"dataset_fingerprint\.json is missing; run: nnUNetv2_extract_fingerprint -d 138"):
        planned()


def test_missing_raw_dataset(brats_like: Any) -> None:
    (brats_like.raw / DATASET / "dataset.json").unlink()
    with pytest.raises(SetupError, match=r"dataset\.json is missing; planning needs the raw dataset"):
        planned()


def test_preprocessed_dataset_json_is_not_overwritten_by_another(brats_like: Any) -> None:
    planned()
    path = planned_folder() / "dataset.json"
    changed = path.read_text().replace("oedema", "edema")
    path.write_text(changed)
    with pytest.raises(SetupError, match=r"dataset\.json differs from .*; make them equal"):
        planned()
    assert path.read_text() == changed


def test_contradicting_splits(brats_like: Any) -> None:
    for folder, case in ((brats_like.raw, "case_000"), (brats_like.preprocessed, "case_001")):
        (folder / DATASET / "splits_final.json").write_text(json.dumps([{"train": [case], "val": []}]))
    with pytest.raises(SetupError, match=r"splits_final\.json and the one in .* have different splits"):
        planned()
