"""The shared error of two models, on a line of voxels counted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from shared_error import shared_error, shifted

TRUTH = np.array([0, 0, 1, 1, 1, 1, 0, 0])
ONE = np.array([0.1, 0.6, 0.9, 0.9, 0.9, 0.9, 0.1, 0.1])
"""Foreground probability; finds one voxel too many."""
OTHER = np.array([0.1, 0.1, 0.9, 0.9, 0.9, 0.2, 0.1, 0.6])
"""Finds one too many and misses one."""


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    for name, foreground in (("one", ONE), ("other", OTHER)):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "case.npz", probabilities=np.stack([1 - foreground, foreground])[:, None, None])
    (tmp_path / "truth").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(TRUTH[None, None].astype(np.uint8)), tmp_path / "truth" / "case.nii.gz")
    return [tmp_path / "one", tmp_path / "other"]


def test_models_against_the_truth_and_each_other(folders: list[Path]) -> None:
    found = shared_error(folders, folders[0].parent / "truth")
    assert found["cases"] == 1
    assert found["models"] == {"one": {"dice": 88.89, "volume_ratio": 1.25}, "other": {"dice": 75.0, "volume_ratio": 1.0}}
    # found by one: 1 to 5, by the other: 2, 3, 4, 7; their mean is above one half at 2 to 5
    assert found["pairs"] == {"one + other": {"dice_with_each_other": 66.67, "dice_of_their_mean": 100.0}}
    assert found["dice_of_the_mean_of_all"] == 100
    assert found["background_shift"]["one"]["0.5"] == {"dice": 100.0, "volume_ratio": 1.0}
    assert found["background_shift"]["one"]["0"] == found["models"]["one"]


def test_a_shift_leaves_the_probabilities_alone(folders: list[Path]) -> None:
    probabilities = np.stack([1 - ONE, ONE])
    before = probabilities.copy()
    assert shifted(probabilities, -3).sum() == 8  # odds of 0.1 times 20 are above 1
    assert (probabilities == before).all()


def test_a_folder_without_probabilities_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"in {tmp_path}; predict with --save_probabilities"):
        shared_error([tmp_path], tmp_path)
