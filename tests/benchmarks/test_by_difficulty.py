"""Dice by difficulty, on lines of voxels counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import SimpleITK as sitk
from by_difficulty import by_difficulty

TRUTH = [0, 1, 1, 2, 2, 0]
PERFECT = TRUTH
SWAPPED = [0, 2, 2, 1, 1, 0]
"""No class is right, though all that is not background is found."""
HALF = [0, 1, 0, 2, 0, 0]
"""Two thirds of Dice in both classes and in both as one."""


def write(folder: Path, **cases: list[int]) -> Path:
    folder.mkdir()
    for case, labels in cases.items():
        image = sitk.GetImageFromArray([[labels]])
        sitk.WriteImage(sitk.Cast(image, sitk.sitkUInt8), folder / f"{case}.nii.gz")
    return folder


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return write(tmp_path / "truth", a=TRUTH, b=TRUTH, c=TRUTH, d=TRUTH)


def test_cases_are_grouped_by_the_first_model(tmp_path: Path, truth: Path) -> None:
    teacher = write(tmp_path / "teacher", a=PERFECT, b=SWAPPED, c=HALF, d=PERFECT)
    student = write(tmp_path / "student", a=HALF, b=PERFECT, c=PERFECT, d=PERFECT)
    found = by_difficulty([teacher, student], truth, groups=2)
    assert found["cases"] == 4
    # hardest first: b and c, then a and d
    assert found["models"]["teacher"] == {"dice": 66.67, "dice_of_classes_as_one": 91.67, "by_difficulty": [33.33, 100.0]}
    assert found["models"]["student"] == {"dice": 91.67, "dice_of_classes_as_one": 91.67, "by_difficulty": [100.0, 83.33]}
    pair = found["pairs"]["student - teacher"]
    # differences -33.33, 100, 33.33 and 0: mean 25, standard deviation 56.9
    assert pair["all"] == {"difference": 25.0, "standard_error": 28.46}
    assert pair["by_difficulty"] == [{"difference": 66.67, "standard_error": 33.33}, {"difference": -16.67, "standard_error": 16.67}]


def test_a_group_of_one_case_has_no_standard_error(tmp_path: Path, truth: Path) -> None:
    folders = [write(tmp_path / name, a=PERFECT, b=HALF) for name in ("one", "other")]
    found = by_difficulty(folders, truth, groups=2)
    assert found["models"]["one"]["by_difficulty"] == [66.67, 100.0]
    assert found["pairs"]["other - one"]["by_difficulty"] == [{"difference": 0.0, "standard_error": None}] * 2


def test_a_folder_with_too_few_cases_is_named(tmp_path: Path, truth: Path) -> None:
    few = write(tmp_path / "few", a=PERFECT)
    with pytest.raises(ValueError, match=rf"1 label images \(\*.nii.gz\) in {few}, fewer than 4 groups"):
        by_difficulty([few], truth)


def test_a_folder_that_lacks_cases_is_named(tmp_path: Path, truth: Path) -> None:
    teacher = write(tmp_path / "teacher", a=PERFECT, b=PERFECT, c=PERFECT, d=PERFECT)
    student = write(tmp_path / "student", a=PERFECT, c=PERFECT)
    with pytest.raises(ValueError, match=r"student lacks 2 of the cases of .*teacher, the first is b.nii.gz"):
        by_difficulty([teacher, student], truth, groups=2)
