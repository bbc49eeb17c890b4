"""Plans made afresh for TransASPPUNet: under a name of their own, with data that are shared where they fit."""

from __future__ import annotations

import json
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import pytest
from tiny_setup import DATASET, IDENTIFIER, Project, digests, write_teacher

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.data.fresh_plans import FreshPlans, default_plans_name, plan_afresh
from nnunet_ssl.errors import SetupError, StateError

NAME = "nnUNetTransASPPPlans_24G"


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """nnU-Net's planner forks twelve of them to list a folder."""
    monkeypatch.setattr("nnunetv2.utilities.utils.Pool", ThreadPool)


def identifiers(fresh: FreshPlans) -> dict[str, str]:
    return {setup.configuration: str(setup.configuration_manager.data_identifier) for setup in fresh.configurations}


def existing_files(project: Project) -> dict[str, str]:
    return digests(sorted(f for f in (project.preprocessed / DATASET).rglob("*") if f.is_file()))


def change_base(project: Project, **changes: Any) -> None:
    """Other values in nnU-Net's own plans for 3d_fullres."""
    path = project.preprocessed / DATASET / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    plans["configurations"]["3d_fullres"] |= changes
    path.write_text(json.dumps(plans))


def test_default_names() -> None:
    assert default_plans_name(24.0) == NAME
    assert default_plans_name(10.5) == "nnUNetTransASPPPlans_10.5G"
    assert default_plans_name(8, "cuda") == "nnUNetTransASPPPlans_8G_torchres"


def test_data_of_nnunets_plans_are_shared_and_nothing_is_changed(project: Project) -> None:
    before = existing_files(project)
    fresh = plan_afresh("137", gpu_memory_target=24)
    assert fresh.is_new
    assert fresh.path == project.preprocessed / DATASET / f"{NAME}.json"
    assert identifiers(fresh) == {"2d": "nnUNetPlans_2d", "3d_fullres": IDENTIFIER}
    assert fresh.without_data == ["2d"]  # of the tiny set-up, only 3d_fullres is preprocessed
    after = existing_files(project)
    assert set(after) - set(before) == {str(fresh.path)}
    assert {path: after[path] for path in before} == before


def test_plans_are_ready_for_every_command(project: Project) -> None:
    plan_afresh("137", gpu_memory_target=24)
    setup = project.setup(NAME)
    assert setup.plans["plans_name"] == NAME
    assert setup.configuration_manager.network_arch_class_name.endswith("TransASPPUNet")
    assert setup.method == MethodConfig()
    assert setup.configuration_manager.configuration["nnssl"] == MethodConfig().to_dict()
    assert setup.data_hash() == project.setup("nnUNetPlans").data_hash()  # one pool for both


def test_our_trainer_starts_with_fresh_plans(project: Project) -> None:
    plan_afresh("137", gpu_memory_target=24)
    folder = write_teacher(plans=NAME)
    assert (folder / "checkpoint_final.pth").is_file()
    assert folder.parent.name == f"TransASPPTeacherTrainer__{NAME}__3d_fullres"


def test_same_command_again_changes_nothing(project: Project) -> None:
    path = plan_afresh("137", gpu_memory_target=24).path
    before = path.read_bytes()
    again = plan_afresh(DATASET, gpu_memory_target=24)
    assert not again.is_new
    assert path.read_bytes() == before


def test_other_plans_under_that_name_are_not_touched(project: Project) -> None:
    path = plan_afresh("137", gpu_memory_target=8, plans_name="mine").path
    path.write_text(path.read_text().replace('"batch_size": ', '"batch_size": 1'))
    before = path.read_bytes()
    with pytest.raises(StateError, match=r"mine\.json holds other plans than would be made now; .* -overwrite_plans_name"):
        plan_afresh("137", gpu_memory_target=8, plans_name="mine")
    with pytest.raises(StateError, match=r"nnUNetPlans\.json holds other plans"):
        plan_afresh("137", gpu_memory_target=8, plans_name="nnUNetPlans")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"spacing": [1.0, 1.0, 1.5]},
        {"normalization_schemes": ["CTNormalization"]},
        {"resampling_fn_data": "resample_torch_fornnunet"},
        {"use_mask_for_norm": [True]},
    ],
)
def test_data_of_another_shape_are_not_shared(project: Project, changes: dict[str, Any]) -> None:
    """Nor does the overlay, which is as it was, say how these data are shaped."""
    change_base(project, **changes)
    fresh = plan_afresh("137", gpu_memory_target=24)
    assert identifiers(fresh) == {"2d": "nnUNetPlans_2d", "3d_fullres": f"{NAME}_3d_fullres"}
    assert fresh.without_data == ["2d", "3d_fullres"]


def test_data_that_exist_are_preferred(project: Project) -> None:
    """nnU-Net's plans come first, unless other plans that shape the data alike have them preprocessed already."""
    change_base(project, data_identifier="elsewhere")
    assert identifiers(plan_afresh("137", gpu_memory_target=24))["3d_fullres"] == IDENTIFIER  # of the overlay
    for path in (project.preprocessed / DATASET).glob("nnUNetPlans_nnssl_*.json"):
        path.unlink()
    (project.preprocessed / DATASET / f"{NAME}.json").unlink()
    fresh = plan_afresh("137", gpu_memory_target=24)
    assert identifiers(fresh)["3d_fullres"] == "elsewhere"
    assert "3d_fullres" in fresh.without_data


def test_torch_resampling_has_data_of_its_own(project: Project) -> None:
    fresh = plan_afresh("137", gpu_memory_target=24, torch_resampling="cpu")
    assert set(identifiers(fresh).values()) == {f"{NAME}_torchres_2d", f"{NAME}_torchres_3d_fullres"}
    assert fresh.without_data == ["2d", "3d_fullres"]


def test_spacing_of_ones_own(project: Project) -> None:
    fresh = plan_afresh("137", gpu_memory_target=24, plans_name="coarse", target_spacing=(2.0, 2.0, 2.0))
    assert identifiers(fresh) == {"2d": "coarse_2d", "3d_fullres": "coarse_3d_fullres"}


def test_preprocessing_by_nnunet_and_a_run_follow(project: Project) -> None:
    """nnU-Net's own command preprocesses what is missing, and the plans are then a set-up like any other."""
    import contextlib
    import io

    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    plan_afresh("137", gpu_memory_target=24, torch_resampling="cpu")
    name = f"{NAME}_torchres"
    with pytest.raises(SetupError, match=f"run: nnUNetv2_preprocess -d 137 -plans_name {name} -c 3d_fullres"):
        project.setup(name)
    with contextlib.redirect_stdout(io.StringIO()):
        api.preprocess([137], name, configurations=("3d_fullres",), num_processes=[1], show_progress_bar=False)
    setup = project.setup(name)
    assert setup.data_folder.name == f"{name}_3d_fullres"
    assert not plan_afresh("137", gpu_memory_target=24, torch_resampling="cpu").without_data[1:]
    assert setup.data_hash() != project.setup("nnUNetPlans").data_hash()


def test_files_that_are_no_plans_are_passed_over(project: Project) -> None:
    folder: Path = project.preprocessed / DATASET
    (folder / "notes.json").write_text("[1, 2")
    (folder / "notes_too.json").write_text(json.dumps({"configurations": {"3d_fullres": {}}}))
    old = json.loads((folder / "nnUNetPlans.json").read_text())
    del old["configurations"]["3d_fullres"]["architecture"]  # as in plans of older versions
    (folder / "old.json").write_text(json.dumps(old))
    assert identifiers(plan_afresh("137", gpu_memory_target=24))["3d_fullres"] == IDENTIFIER


def test_unset_variable_and_unknown_dataset(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SetupError, match="no dataset with id 9"):
        plan_afresh("9", gpu_memory_target=24)
    monkeypatch.delenv("nnUNet_preprocessed")
    with pytest.raises(SetupError, match="nnUNet_preprocessed is not set"):
        plan_afresh("137", gpu_memory_target=24)
