"""Where everything lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_ssl import locations
from nnunet_ssl.errors import SetupError
from nnunet_ssl.locations import ModelLocation, plans_flag, stage_dataset_name


@pytest.fixture(autouse=True)
def _folders(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", f"/data/{name}")


@pytest.mark.parametrize("name", ["raw", "preprocessed", "results"])
def test_roots_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    root = getattr(locations, f"{name}_root")
    assert root() == Path("/data") / name
    for value in (None, ""):
        monkeypatch.delenv(f"nnUNet_{name}") if value is None else monkeypatch.setenv(f"nnUNet_{name}", value)
        with pytest.raises(SetupError, match=f"variable nnUNet_{name} is not set"):
            root()
        monkeypatch.setenv(f"nnUNet_{name}", "/data")


def test_relative_roots_are_those_from_the_present_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("nnUNet_raw", "demo/nnUNet_raw")
    assert locations.raw_root() == tmp_path / "demo" / "nnUNet_raw"


def test_model_lies_where_nnunet_puts_it() -> None:
    model = ModelLocation(dataset="Dataset137_X", trainer="T", plans="P", configuration="3d_fullres")
    folder = Path("/data/results/Dataset137_X/T__P__3d_fullres")
    assert model.folder == folder
    assert model.checkpoint(0) == folder / "fold_0" / "checkpoint_final.pth"
    assert model.workspace("all") == folder / "fold_all" / "nnssl"


@pytest.mark.parametrize(
    ("number", "base", "fold", "stage", "expected"),
    [
        (601, "Dataset137_BraTS2021", 0, 1, "Dataset601_BraTS2021_f0s1"),
        (7, "Dataset137_A_b", "all", 12, "Dataset007_A_b_falls12"),
    ],
)
def test_names_of_stage_datasets(number: int, base: str, fold: int | str, stage: int, expected: str) -> None:
    assert stage_dataset_name(number, base, fold, stage) == expected


def test_pool_and_targets_lie_beside_the_data_never_inside() -> None:
    pool = locations.pool_folder("Dataset137_X", "P_3d", "abcd1234")
    assert pool == Path("/data/preprocessed/Dataset137_X/P_3d__pool_abcd1234")
    assert locations.pool_index("Dataset137_X", "P_3d", "abcd1234") == pool.with_suffix(".json")
    targets = locations.targets_folder("Dataset601_X_f0s1", "P_3d")
    assert targets == Path("/data/preprocessed/Dataset601_X_f0s1/P_3d__nnssl")
    for folder in (pool, targets):
        assert not folder.name.startswith("Dataset")
        assert folder.parent / "P_3d" not in folder.parents


def test_shipped_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert (locations.trainers_folder() / "nnssl_trainers.py").is_file()
    assert (locations.presets_folder() / "default.json").is_file()
    monkeypatch.setattr(locations, "__file__", str(tmp_path / "nnunet_ssl" / "locations.py"))
    with pytest.raises(SetupError, match="folder 'trainers' of nnunet-ssl is missing"):
        locations.trainers_folder()


def test_plans_flag_is_left_out_for_nnunets_default() -> None:
    assert plans_flag("nnUNetPlans") == ""
    assert plans_flag("mine") == " -p mine"
