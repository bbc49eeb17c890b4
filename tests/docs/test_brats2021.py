"""The script that turns BraTS 2021 into an nnU-Net dataset: its layout, what it never opens, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from brats_folder import brats_case, case_name, write_brats_folder, write_volume
from nnunetv2.dataset_conversion import Dataset137_BraTS21 as stock

DATASET = "Dataset137_BraTS2021"
CASES = [case_name(number) for number in range(9)]


@pytest.fixture(scope="module")
def script(load_example: Callable[[str], ModuleType]) -> ModuleType:
    return load_example("docs/examples/brats2021.py")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Nine cases as downloaded."""
    write_brats_folder(tmp_path / "BraTS2021", range(9))
    return tmp_path / "BraTS2021"


@pytest.fixture
def convert(script: ModuleType, source: Path, nnunet_environment: Any, tmp_path: Path, capsys: Any) -> Callable[..., str]:
    """Calls the script and returns what it said."""

    def call(*flags: object, code: int = 0, labelled: int = 5, test: int = 1, pool: int | None = 3) -> str:
        sizes = ["--labelled", labelled, "--test", test, *([] if pool is None else ["--pool", pool])]
        assert script.main([*map(str, ["-i", source, "-o", tmp_path / "brats", *sizes, *flags])]) == code
        captured = capsys.readouterr()
        return str(captured.out if code == 0 else captured.err)

    return call


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def cases_in(folder: Path) -> list[str]:
    return sorted({name[: len(CASES[0])] for name in names(folder)})


def read(path: Path) -> Any:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_layout(convert: Callable[..., str], source: Path, nnunet_environment: Any, tmp_path: Path) -> None:
    said = convert()
    dataset, out = nnunet_environment.raw / DATASET, tmp_path / "brats"
    groups = [cases_in(folder) for folder in (dataset / "labelsTr", out / "pool", out / "test" / "labels")]
    assert [len(group) for group in groups] == [5, 3, 1]
    assert sorted(case for group in groups for case in group) == CASES
    images = [cases_in(folder) for folder in (dataset / "imagesTr", out / "pool", out / "test" / "images")]
    assert images == groups
    for folder in (dataset / "imagesTr", out / "pool", out / "test" / "images"):
        for case in cases_in(folder):
            number = int(case[-5:])
            for channel in range(4):
                path = folder / f"{case}_{channel:04d}.nii.gz"
                assert path.is_symlink()
                np.testing.assert_array_equal(read(path), brats_case(number)[0][channel])
        assert len(names(folder)) == 4 * len(cases_in(folder))
    assert names(out) == ["pool", "test"]
    assert names(dataset) == ["dataset.json", "imagesTr", "labelsTr", "splits_final.json"]
    assert names(nnunet_environment.raw) == [DATASET]
    assert names(tmp_path) == ["BraTS2021", "brats", "nnUNet_preprocessed", "nnUNet_raw", "nnUNet_results"]
    assert "next: nnUNetv2_plan_and_preprocess -d 137 -c 3d_fullres" in said


def test_labels_and_dataset_json_are_those_of_nnunets_own_conversion(
    convert: Callable[..., str], source: Path, nnunet_environment: Any, tmp_path: Path
) -> None:
    convert()
    dataset = nnunet_environment.raw / DATASET
    for folder in (dataset / "labelsTr", tmp_path / "brats" / "test" / "labels"):
        for case in cases_in(folder):
            stock.copy_BraTS_segmentation_and_convert_labels_to_nnUNet(
                str(source / case / f"{case}_seg.nii.gz"), str(tmp_path / "stock.nii.gz")
            )
            ours, theirs = (sitk.ReadImage(str(path)) for path in (folder / f"{case}.nii.gz", tmp_path / "stock.nii.gz"))
            np.testing.assert_array_equal(sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(theirs))
            assert (ours.GetOrigin(), ours.GetSpacing(), ours.GetDirection()) == (
                theirs.GetOrigin(),
                theirs.GetSpacing(),
                theirs.GetDirection(),
            )
    content = json.loads((dataset / "dataset.json").read_text())
    assert list(content["channel_names"].values()) == ["T1", "T1ce", "T2", "Flair"]
    regions = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]}
    assert list(content["labels"].items()) == list(regions.items())
    assert content["regions_class_order"] == [1, 2, 3]
    assert content["numTraining"] == 5


def test_volumes_that_are_printed(convert: Callable[..., str], tmp_path: Path) -> None:
    said = convert()
    (case,) = cases_in(tmp_path / "brats" / "test" / "labels")
    label = brats_case(int(case[-5:]))[1]
    whole, core, enhancing = (np.isin(label, values).sum() * 0.064 for values in ((1, 2, 4), (1, 4), (4,)))
    assert whole > core > enhancing >= 0
    assert f"test      {case}: whole tumor {whole:.1f} ml, tumor core {core:.1f} ml, enhancing tumor {enhancing:.1f} ml\n" in said


def test_no_label_of_the_pool_is_needed_or_opened(convert: Callable[..., str], source: Path, tmp_path: Path) -> None:
    convert()
    pool = cases_in(tmp_path / "brats" / "pool")
    (source / pool[0] / f"{pool[0]}_seg.nii.gz").unlink()
    (source / pool[1] / f"{pool[1]}_seg.nii.gz").write_bytes(b"opened")
    convert("-d", 138, "-o", tmp_path / "again")
    assert cases_in(tmp_path / "again" / "pool") == pool


def test_the_rest_is_the_pool_and_the_draw_depends_on_the_seed_alone(
    convert: Callable[..., str], nnunet_environment: Any, tmp_path: Path
) -> None:
    convert()
    convert("-d", 138, "-o", tmp_path / "more", pool=None, test=2, labelled=5)
    convert("-d", 139, "-o", tmp_path / "other", "--seed", 1)
    labelled = [cases_in(path / "labelsTr") for path in sorted(nnunet_environment.raw.iterdir())]
    assert labelled[0] == labelled[1] != labelled[2]
    assert len(cases_in(tmp_path / "more" / "pool")) == 2


@pytest.mark.parametrize(("labelled", "validation"), [(2, [1, 1]), (4, [1] * 4), (5, [1] * 5), (7, [2, 2, 1, 1, 1])])
def test_splits(script: ModuleType, labelled: int, validation: list[int]) -> None:
    splits = script.make_splits(CASES[:labelled])
    assert [len(split["val"]) for split in splits] == validation
    assert sorted(case for split in splits for case in split["val"]) == CASES[:labelled]
    for split in splits:
        assert sorted(split["train"] + split["val"]) == CASES[:labelled]


def no_cases(source: Path) -> None:
    for folder in source.iterdir():
        folder.rename(folder.with_name(folder.name.replace("BraTS2021", "Case")))


def without(channel: str) -> Callable[[Path], None]:
    def spoil(source: Path) -> None:
        for case in CASES:
            (source / case / f"{case}_{channel}.nii.gz").unlink()

    return spoil


def with_label_three(source: Path) -> None:
    for number, case in enumerate(CASES):
        label = brats_case(number)[1]
        label[0, 0, 0] = 3
        write_volume(label, source / case / f"{case}_seg.nii.gz")


def with_damaged_labels(source: Path) -> None:
    for case in CASES:
        (source / case / f"{case}_seg.nii.gz").write_bytes(b"no image")


@pytest.mark.parametrize(
    ("spoil", "sizes", "message"),
    [
        (no_cases, {}, "holds no folder named BraTS2021_<number>; -i takes the folder with the unpacked cases."),
        (without("t1ce"), {}, "BraTS2021_00000_t1ce.nii.gz is missing; complete the case or take its folder away."),
        (without("seg"), {}, "_seg.nii.gz is missing; labelled and test cases need it, only pool cases do not."),
        (with_label_three, {}, "_seg.nii.gz has the value 3; labels of BraTS 2021 are 0, 1, 2 and 4."),
        (with_damaged_labels, {}, "; download it again."),
        (lambda source: None, {"labelled": 1}, "1 labelled, 1 test and 3 pool cases cannot be drawn from 9; at least 2 labelled cases"),
        (lambda source: None, {"labelled": 6}, "6 labelled, 1 test and 3 pool cases cannot be drawn from 9;"),
        (lambda source: None, {"labelled": 8, "pool": None}, "8 labelled, 1 test and 0 pool cases cannot be drawn from 9;"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(
    convert: Callable[..., str], source: Path, nnunet_environment: Any, tmp_path: Path, spoil: Any, sizes: dict[str, Any], message: str
) -> None:
    spoil(source)
    before = names(tmp_path)
    said = convert(code=2, **sizes)
    assert said.startswith("brats2021.py: error: ")
    assert said.count("\n") == 1
    assert message in said
    assert names(nnunet_environment.raw) == []
    assert names(tmp_path) == before


def test_nothing_is_overwritten(convert: Callable[..., str], nnunet_environment: Any, tmp_path: Path) -> None:
    convert()
    assert f"{nnunet_environment.raw / DATASET} exists; remove it or choose another id with -d." in convert("-o", tmp_path / "new", code=2)
    assert f"{tmp_path / 'brats'} exists; give a new folder with -o." in convert("-d", 138, code=2)
    assert names(nnunet_environment.raw) == [DATASET]
    assert not (tmp_path / "new").exists()


@pytest.mark.real_data
def test_real_cases(script: ModuleType, shared_data: Path, nnunet_environment: Any, tmp_path: Path, capsys: Any) -> None:
    flags = ["-i", shared_data / "brats2021", "-o", tmp_path / "brats", "--labelled", 5, "--test", 1, "--pool", 3, "--seed", 3]
    assert script.main([*map(str, flags)]) == 0
    # voxels of 1, 2, 4 in the downloaded labels: 1501, 52436, 2575
    assert "test      BraTS2021_01481: whole tumor 56.5 ml, tumor core 4.1 ml, enhancing tumor 2.6 ml" in capsys.readouterr().out
    label = read(tmp_path / "brats" / "test" / "labels" / "BraTS2021_01481.nii.gz")
    assert np.bincount(label.ravel())[1:].tolist() == [52436, 1501, 2575]
    assert cases_in(tmp_path / "brats" / "pool") == ["BraTS2021_01478", "BraTS2021_01480", "BraTS2021_01484"]
