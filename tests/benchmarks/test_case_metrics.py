"""Dice, surface Dice and HD95 against numbers worked out by hand, and against nnU-Net's own evaluation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from case_metrics import METRICS, Mask, case_metrics, folder_cases, mean_metrics, object_metrics, read_cases, write_cases

CLASSES = {"background": 0, "anterior": 1, "posterior": 2}


def block(shape: tuple[int, ...], *slices: tuple[int, int]) -> Mask:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*ends) for ends in slices)] = True
    return mask


def test_an_object_agrees_with_itself() -> None:
    mask = block((6, 6, 6), (1, 4), (2, 5), (0, 3))
    assert object_metrics(mask, mask, spacing_mm=(1, 2, 3)) == {"dice": 100.0, "surface_dice": 100.0, "hd95_mm": 0.0}


@pytest.mark.parametrize(("step", "surface_dice", "hd95"), [(1.0, 100.0, 1.0), (2.0, 100 * 17 / 26, 2.0)])
def test_a_cube_moved_by_one_voxel(step: float, surface_dice: float, hd95: float) -> None:
    # 27 voxels each, 18 shared; all but the centre are surface. Of the 26, the 9 of the outer layer lie one step away, the middle of the
    # layer opposite lies 1 mm beside the other's surface, and 16 lie on it
    truth, moved = block((7, 7, 7), (1, 4), (2, 5), (2, 5)), block((7, 7, 7), (2, 5), (2, 5), (2, 5))
    found = object_metrics(moved, truth, spacing_mm=(step, 1, 1))
    assert found == pytest.approx({"dice": 200 * 18 / 54, "surface_dice": surface_dice, "hd95_mm": hd95})


def test_spacing_belongs_to_its_axis() -> None:
    one, other = block((5, 5, 5), (1, 2), (2, 3), (2, 3)), block((5, 5, 5), (1, 2), (2, 3), (4, 5))
    assert object_metrics(one, other, spacing_mm=(7, 5, 0.25)) == {"dice": 0.0, "surface_dice": 100.0, "hd95_mm": 0.5}
    assert object_metrics(one, other, spacing_mm=(0.25, 5, 7)) == {"dice": 0.0, "surface_dice": 0.0, "hd95_mm": 14.0}


def test_a_distance_of_exactly_the_tolerance_is_met_despite_spacing_in_single_precision() -> None:
    one, other = block((1, 1, 12), (0, 1), (0, 1), (0, 1)), block((1, 1, 12), (0, 1), (0, 1), (10, 11))
    step = float(np.float32(0.1))
    assert 10 * step > 1
    assert object_metrics(one, other, spacing_mm=(1, 1, step))["surface_dice"] == 100.0
    assert object_metrics(one, other, spacing_mm=(1, 1, 0.101))["surface_dice"] == 0.0


def test_hd95_is_the_larger_of_the_two_directions() -> None:
    # from the longer line: nineteen zeros and a one, whose 95th percentile is at place 0.95 * 19 = 18.05; the way back there are only zeros
    long, short = block((1, 1, 24), (0, 1), (0, 1), (2, 22)), block((1, 1, 24), (0, 1), (0, 1), (2, 21))
    for pair in ((long, short), (short, long)):
        assert object_metrics(*pair, spacing_mm=(1, 1, 1))["hd95_mm"] == pytest.approx(0.05)


def test_outside_the_image_is_outside_the_object() -> None:
    full = np.ones((3, 3, 3), bool)
    hollow = full.copy()
    hollow[1, 1, 1] = False
    assert object_metrics(full, hollow, spacing_mm=(1, 1, 1)) == pytest.approx({"dice": 200 * 26 / 53, "surface_dice": 100, "hd95_mm": 0})


def test_two_empty_objects_say_nothing() -> None:
    empty = np.zeros((3, 3, 3), bool)
    found = object_metrics(empty, empty, spacing_mm=(1, 1, 1))
    assert list(found) == list(METRICS)
    assert all(math.isnan(value) for value in found.values())


def test_a_missed_or_invented_object_costs_the_diagonal() -> None:
    empty, some = np.zeros((4, 3, 1), bool), block((4, 3, 1), (0, 1), (0, 1), (0, 1))
    for pair in ((empty, some), (some, empty)):
        # 3 steps of 1 mm and 2 steps of 2 mm between the farthest voxels
        assert object_metrics(*pair, spacing_mm=(1, 2, 9)) == {"dice": 0.0, "surface_dice": 0.0, "hd95_mm": 5.0}


def test_what_does_not_fit_is_refused() -> None:
    mask = np.ones((2, 2, 2), bool)
    with pytest.raises(ValueError, match="do not fit"):
        object_metrics(mask, mask[:1], spacing_mm=(1, 1, 1))
    with pytest.raises(ValueError, match="do not fit"):
        object_metrics(mask, mask, spacing_mm=(1, 1))


def test_a_case_has_every_metric_of_every_class_but_the_background() -> None:
    truth = np.array([[[1, 1, 0, 2, 2]]])
    found = case_metrics(np.array([[[1, 1, 0, 0, 2]]]), truth, classes=CLASSES, spacing_mm=(1, 1, 1))
    assert list(found) == [f"{metric}_{name}" for metric in METRICS for name in ("anterior", "posterior")]
    assert found["dice_anterior"] == 100.0
    assert found["dice_posterior"] == pytest.approx(200 / 3)


def write(path: Path, array: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 2.0)) -> None:
    image = sitk.GetImageFromArray(array.astype(np.uint8))
    image.SetSpacing(spacing)
    path.parent.mkdir(exist_ok=True)
    sitk.WriteImage(image, path)


def line(*labels: int) -> np.ndarray:
    """Along the first axis of the array, the last of the file, whose voxels are 2 mm."""
    return np.array(labels).reshape(-1, 1, 1)


def test_a_folder_is_averaged_over_cases_as_nnunet_does(tmp_path: Path) -> None:
    truth, predicted = tmp_path / "truth", tmp_path / "predicted"
    # class 2 is in neither image of case b, and missed in c
    pairs = {"a": ([1, 1, 0, 2], [1, 0, 0, 2]), "b": ([1, 1, 0, 0], [1, 1, 0, 0]), "c": ([1, 0, 0, 2], [0, 1, 0, 0])}
    for case, (true, guessed) in pairs.items():
        write(truth / f"{case}.nii.gz", line(*true))
        write(predicted / f"{case}.nii.gz", line(*guessed))

    found = mean_metrics(folder_cases(predicted, truth, cases=pairs, classes=CLASSES))

    assert found == pytest.approx(
        {
            "dice": 100 * (5 / 9 + 1 / 2) / 2,
            "dice_anterior": 100 * (2 / 3 + 1 + 0) / 3,
            "dice_posterior": 100 * (1 + 0) / 2,
            # one of three surface voxels of case a, and both of case c, are 2 mm off
            "surface_dice_anterior": 100 * (2 / 3 + 1 + 0) / 3,
            "surface_dice_posterior": 50.0,
            # case a: the 95th percentile of 0 and 2 mm; c: one step for the first class, the diagonal of three steps for the second
            "hd95_mm_anterior": (1.9 + 0 + 2) / 3,
            "hd95_mm_posterior": (0 + 6) / 2,
        }
    )
    assert found["dice"] == pytest.approx(100 * nnunet_foreground_mean(truth, predicted))


def nnunet_foreground_mean(truth: Path, predicted: Path) -> float:
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    summary = compute_metrics_on_folder(str(truth), str(predicted), None, SimpleITKIO(), ".nii.gz", [0, 1, 2], num_processes=1)
    return float(summary["foreground_mean"]["Dice"])


def test_only_the_named_cases_count(tmp_path: Path) -> None:
    for case, label in (("a", 1), ("b", 0)):
        write(tmp_path / "truth" / f"{case}.nii.gz", line(1, 1))
        write(tmp_path / "predicted" / f"{case}.nii.gz", line(label, label))
    found = folder_cases(tmp_path / "predicted", tmp_path / "truth", cases=["a"], classes={"all": 1})
    assert list(found) == ["a"]
    assert mean_metrics(found)["dice"] == 100.0
    with pytest.raises(ValueError, match="no cases"):
        folder_cases(tmp_path / "predicted", tmp_path / "truth", cases=[], classes={"all": 1})


def test_cases_are_written_down_with_their_volumes(tmp_path: Path) -> None:
    write(tmp_path / "truth" / "a.nii.gz", line(1, 1, 0, 2, 2))
    write(tmp_path / "predicted" / "a.nii.gz", line(1, 0, 0, 2, 2))
    write(tmp_path / "truth" / "b.nii.gz", line(1, 0, 0, 0))
    write(tmp_path / "predicted" / "b.nii.gz", line(1, 1, 0, 0))
    found = folder_cases(tmp_path / "predicted", tmp_path / "truth", cases=["b", "a"], classes=CLASSES)
    write_cases(tmp_path / "cases.csv", found)
    again = read_cases(tmp_path / "cases.csv")
    assert list(again) == ["a", "b"]
    # voxels of 2 mm^3
    names = ("volume_mm3_anterior", "true_volume_mm3_anterior", "volume_mm3_posterior", "true_volume_mm3_posterior")
    assert [again["a"][name] for name in names] == [2, 4, 4, 4]
    assert [again["b"][name] for name in names] == [4, 2, 0, 0]
    assert again["b"] == pytest.approx(found["b"], abs=1e-4, nan_ok=True)
    assert math.isnan(again["b"]["dice_posterior"])
    assert "volume_mm3_anterior" not in mean_metrics(again)


def test_images_of_another_geometry_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "truth" / "a.nii.gz", line(1, 1))
    write(tmp_path / "predicted" / "a.nii.gz", line(1, 1), spacing=(1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="spacing"):
        folder_cases(tmp_path / "predicted", tmp_path / "truth", cases=["a"], classes={"all": 1})
