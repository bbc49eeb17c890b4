"""The synthetic dataset: the same bytes every time, sound geometry, nested classes, a pool without labels, an unseen scanner."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from nnunet_ssl.demo.phantom import CHANNELS, LABELS, make_phantom
from nnunet_ssl.demo.scanner import SEEN_SCANNERS, UNSEEN_SCANNER, acquire
from nnunet_ssl.demo.synthetic import DATASET_NAME, SyntheticDataset, write_synthetic_dataset
from nnunet_ssl.errors import InputError, StateError

GROUPS = {"labelled": 4, "pool": 6, "test": 3}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> SyntheticDataset:
    return write_synthetic_dataset(tmp_path_factory.mktemp("synthetic"), **GROUPS, seed=7)


def digests(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def labels_of(dataset: SyntheticDataset) -> dict[str, NDArray[np.uint8]]:
    paths = [path for group in GROUPS for path in sorted(dataset.labels_folder(group).iterdir())]
    return {path.name.removesuffix(".nii.gz"): sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in paths}


def scanners_of(dataset: SyntheticDataset) -> dict[str, tuple[str, str]]:
    with dataset.scanners_csv.open(encoding="utf-8") as file:
        return {row["case"]: (row["group"], row["scanner"]) for row in csv.DictReader(file)}


def test_same_arguments_give_the_same_bytes(dataset: SyntheticDataset, tmp_path: Path) -> None:
    again = write_synthetic_dataset(tmp_path, **GROUPS, seed=7)
    assert digests(again.folder) == digests(dataset.folder)


def test_a_case_does_not_depend_on_how_many_there_are(dataset: SyntheticDataset, tmp_path: Path) -> None:
    few = digests(write_synthetic_dataset(tmp_path, labelled=2, pool=1, test=1, seed=7).folder)
    many = digests(dataset.folder)
    images = [name for name in few if name.endswith(".nii.gz")]
    assert len(images) == (2 + 1 + 1) * 5
    assert {name: few[name] for name in images} == {name: many[name] for name in images}


def test_another_seed_gives_other_images(dataset: SyntheticDataset, tmp_path: Path) -> None:
    other = digests(write_synthetic_dataset(tmp_path, labelled=1, pool=1, test=1, seed=8).folder)
    same = digests(dataset.folder)
    assert not any(same[name] == digest for name, digest in other.items() if name.endswith(".nii.gz"))


def test_all_images_of_all_cases_differ(dataset: SyntheticDataset) -> None:
    volumes = {name: digest for name, digest in digests(dataset.folder).items() if name.endswith(".nii.gz")}
    assert len(volumes) == sum(GROUPS.values()) * 5
    assert len(set(volumes.values())) == len(volumes)


def test_layout_is_a_raw_dataset_and_a_pool_without_labels(dataset: SyntheticDataset) -> None:
    content = json.loads((dataset.dataset_folder / "dataset.json").read_text(encoding="utf-8"))
    assert content["numTraining"] == 4
    assert content["labels"] == {"background": 0, "edema": 1, "core": 2, "enhancing": 3}
    assert list(content["channel_names"].values()) == ["t1", "t1ce", "t2", "flair"]
    assert dataset.dataset_folder == dataset.folder / "nnUNet_raw" / DATASET_NAME
    for group, count in GROUPS.items():
        cases = [f"{group}_{index:03d}" for index in range(count)]
        images = [f"{case}_{channel:04d}.nii.gz" for case in cases for channel in range(4)]
        assert sorted(p.name for p in dataset.images_folder(group).iterdir()) == images
        assert sorted(p.name for p in dataset.labels_folder(group).iterdir()) == [f"{case}.nii.gz" for case in cases]
    assert not dataset.pool_labels.is_relative_to(dataset.pool_images)


def test_geometry_of_labels_and_images_agrees_and_varies(dataset: SyntheticDataset) -> None:
    seen = {"spacing": set(), "direction": set(), "origin": set()}
    for case, (group, _) in scanners_of(dataset).items():
        volumes = [sitk.ReadImage(str(dataset.images_folder(group) / f"{case}_{channel:04d}.nii.gz")) for channel in range(4)]
        label = sitk.ReadImage(str(dataset.labels_folder(group) / f"{case}.nii.gz"))
        for volume in volumes:
            assert volume.GetSize() == label.GetSize()
            assert volume.GetSpacing() == label.GetSpacing()
            assert volume.GetOrigin() == label.GetOrigin()
            assert volume.GetDirection() == label.GetDirection()
        extent_mm = np.multiply(label.GetSize(), label.GetSpacing())
        assert (extent_mm >= (31, 35, 31)).all()
        assert (extent_mm <= (41, 45, 41)).all()
        for name, values in seen.items():
            values.add(getattr(label, f"Get{name.capitalize()}")())
    assert seen["spacing"] == {(1.5, 1.5, 1.5), (1.5, 1.5, 2.0)}
    assert len(seen["direction"]) == 2
    assert len(seen["origin"]) == sum(GROUPS.values())


def test_tumour_classes_are_nested(dataset: SyntheticDataset) -> None:
    for case, labels in labels_of(dataset).items():
        for inner in (2, 3):
            # A voxel of the inner class never touches anything outside the next outer one.
            assert (labels[ndimage.binary_dilation(labels >= inner)] >= inner - 1).all(), case


def test_every_case_has_edema_and_core_and_not_every_one_enhances(dataset: SyntheticDataset) -> None:
    labels = labels_of(dataset)
    assert all({0, 1, 2} <= set(np.unique(values)) for values in labels.values())
    assert {case for case, values in labels.items() if not (values == 3).any()} == {"labelled_002", "pool_002", "test_002"}


def test_one_scanner_is_missing_from_the_labelled_cases(dataset: SyntheticDataset) -> None:
    by_group: dict[str, set[str]] = {group: set() for group in GROUPS}
    for group, scanner in scanners_of(dataset).values():
        by_group[group].add(scanner)
    assert by_group["labelled"] == {scanner.name for scanner in SEEN_SCANNERS}
    assert by_group["pool"] == by_group["test"] == by_group["labelled"] | {UNSEEN_SCANNER.name}
    assert len(by_group["pool"]) == 3


def test_images_are_zero_outside_the_brain_and_tumours_lie_inside(dataset: SyntheticDataset) -> None:
    for case, (group, _) in scanners_of(dataset).items():
        volumes = [sitk.GetArrayFromImage(sitk.ReadImage(str(p))) for p in sorted(dataset.images_folder(group).glob(f"{case}_*"))]
        inside = volumes[0] > 0
        assert all(np.array_equal(volume > 0, inside) for volume in volumes)
        assert 0.2 < inside.mean() < 0.6
        assert inside[sitk.GetArrayFromImage(sitk.ReadImage(str(dataset.labels_folder(group) / f"{case}.nii.gz"))) > 0].all()


def best_threshold_dice(image: NDArray[np.float64], mask: NDArray[np.bool_]) -> float:
    """Dice of the best of all thresholds, chosen with the truth at hand."""
    candidates = [image > threshold for threshold in np.quantile(image, np.linspace(0.5, 0.995, 40))]
    return max(2 * (chosen & mask).sum() / (chosen.sum() + mask.sum()) for chosen in candidates)


def test_tumours_stand_out_but_no_threshold_finds_them() -> None:
    spacing_mm = (1.0, 1.0, 1.0)
    whole, enhancing = [], []
    for seed in range(6):
        phantom = make_phantom(shape=(36, 40, 36), spacing_mm=spacing_mm, enhancing=True, rng=np.random.default_rng(seed))
        images = acquire(SEEN_SCANNERS[0], phantom.signal, spacing_mm=spacing_mm, rng=np.random.default_rng(4)).astype(float)
        inside = phantom.signal[0] > 0
        whole.append(best_threshold_dice(images[CHANNELS.index("flair")][inside], phantom.labels[inside] > 0))
        enhancing.append(best_threshold_dice(images[CHANNELS.index("t1ce")][inside], phantom.labels[inside] == LABELS["enhancing"]))
    # Random voxels would give about 0.1; a task that a threshold solves would leave nothing to learn from a pool.
    assert 0.5 < np.mean(whole) < 0.9
    assert 0.2 < np.mean(enhancing) < 0.7


def test_channels_are_correlated() -> None:
    phantom = make_phantom(shape=(36, 40, 36), spacing_mm=(1.0, 1.0, 1.0), enhancing=True, rng=np.random.default_rng(3))
    inside = phantom.signal[0] > 0
    correlations = np.corrcoef([channel[inside] for channel in phantom.signal])
    assert correlations[CHANNELS.index("t1"), CHANNELS.index("t1ce")] > 0.7
    assert (correlations[~np.eye(4, dtype=bool)] < 0.99).all()


def test_scanners_differ_beyond_their_scale() -> None:
    phantom = make_phantom(shape=(36, 40, 36), spacing_mm=(1.0, 1.0, 1.0), enhancing=True, rng=np.random.default_rng(3))
    inside = phantom.signal[0] > 0
    normalised = []
    for scanner in (SEEN_SCANNERS[0], UNSEEN_SCANNER):
        values = acquire(scanner, phantom.signal, spacing_mm=(1.0, 1.0, 1.0), rng=np.random.default_rng(4))[:, inside].astype(float)
        normalised.append((values - values.mean(axis=1, keepdims=True)) / values.std(axis=1, keepdims=True))
    # What nnU-Net's z-score leaves of the difference, in standard deviations; the same noise and bias draw on both sides.
    assert np.abs(normalised[0] - normalised[1]).mean() > 0.1


def test_a_finished_dataset_is_left_alone(tmp_path: Path) -> None:
    dataset = write_synthetic_dataset(tmp_path, labelled=1, pool=0, test=0, seed=1)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert write_synthetic_dataset(tmp_path, labelled=1, pool=0, test=0, seed=1) == dataset
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times


def test_an_interrupted_dataset_is_completed(tmp_path: Path) -> None:
    dataset = write_synthetic_dataset(tmp_path, labelled=1, pool=1, test=0, seed=1)
    whole = digests(tmp_path)
    (tmp_path / "synthetic.json").unlink()
    next(dataset.pool_images.iterdir()).unlink()
    write_synthetic_dataset(tmp_path, labelled=1, pool=1, test=0, seed=1)
    assert digests(tmp_path) == whole


def test_a_folder_with_another_dataset_is_refused(tmp_path: Path) -> None:
    write_synthetic_dataset(tmp_path, labelled=1, pool=0, test=0, seed=1)
    with pytest.raises(StateError, match="choose another folder"):
        write_synthetic_dataset(tmp_path, labelled=1, pool=0, test=0, seed=2)


@pytest.mark.parametrize("change", [{"labelled": 0}, {"pool": -1}, {"test": -1}, {"seed": -1}])
def test_impossible_numbers_are_refused(tmp_path: Path, change: dict[str, int]) -> None:
    with pytest.raises(InputError, match="at least 1 labelled"):
        write_synthetic_dataset(tmp_path / "new", **{"labelled": 1, "pool": 1, "test": 1, "seed": 0, **change})
    assert not (tmp_path / "new").exists()
