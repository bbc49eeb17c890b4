"""A synthetic dataset in the manner of BraTS, written as files: labelled cases, a pool, a test set, several scanners."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_ssl.demo.phantom import CHANNELS, LABELS, make_phantom
from nnunet_ssl.demo.scanner import ALL_SCANNERS, SEEN_SCANNERS, Scanner, acquire
from nnunet_ssl.errors import InputError, StateError

DATASET_ID = 990
"""nnU-Net id of the synthetic dataset."""
VOXEL_MM, THICK_SLICE_MM = 1.5, 2.0
"""Voxel size, and the slice thickness of every fourth case; coarse, so that a small network learns the task in minutes on a CPU."""
DATASET_NAME = f"Dataset{DATASET_ID}_Synthetic"
_FILE_ENDING = ".nii.gz"
_GENERATOR = 2
"""Version of the generator: raised whenever the same arguments give other images."""
_GROUPS = ("labelled", "pool", "test")


@dataclass(frozen=True, kw_only=True)
class SyntheticDataset:
    """Where the parts of a synthetic dataset lie."""

    folder: Path
    """The folder that holds all others."""
    raw_root: Path
    """What `nnUNet_raw` has to name."""
    dataset_folder: Path
    """The labelled cases as an nnU-Net raw dataset: `imagesTr`, `labelsTr`, `dataset.json`."""
    pool_images: Path
    """Unlabelled images, `<case>_0000.nii.gz` to `<case>_0003.nii.gz`."""
    pool_labels: Path
    """True labels of the pool, outside of it: for the evaluation of pseudo-labels, never for training."""
    test_images: Path
    """Images of the test set."""
    test_labels: Path
    """Labels of the test set."""
    scanners_csv: Path
    """Columns case, group, scanner."""

    @classmethod
    def at(cls, folder: Path) -> SyntheticDataset:
        """The layout below a folder, whether or not it has been written."""
        raw_root = folder / "nnUNet_raw"
        return cls(
            folder=folder,
            raw_root=raw_root,
            dataset_folder=raw_root / DATASET_NAME,
            pool_images=folder / "pool",
            pool_labels=folder / "pool_labels",
            test_images=folder / "test" / "images",
            test_labels=folder / "test" / "labels",
            scanners_csv=folder / "scanners.csv",
        )

    def images_folder(self, group: str) -> Path:
        """Folder of the images of `labelled`, `pool` or `test`."""
        return {"labelled": self.dataset_folder / "imagesTr", "pool": self.pool_images, "test": self.test_images}[group]

    def labels_folder(self, group: str) -> Path:
        """Folder of the labels of `labelled`, `pool` or `test`."""
        return {"labelled": self.dataset_folder / "labelsTr", "pool": self.pool_labels, "test": self.test_labels}[group]


@dataclass(frozen=True, kw_only=True)
class _CasePlan:
    """All that is decided about a case before anything is drawn. Shapes and spacings in (z, y, x)."""

    case: str
    group: str
    scanner: Scanner
    enhancing: bool
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    rng: np.random.Generator


def write_synthetic_dataset(folder: Path, *, labelled: int, pool: int, test: int, seed: int) -> SyntheticDataset:
    """Write a synthetic dataset, the same bytes for the same arguments; a case does not depend on how many others there are.

    Labelled cases come from two scanners; a third of the pool and of the test set comes from another one. Every fifth tumour has no
    enhancing part, every fourth case has thicker slices.

    Args:
        folder: where to write; made if missing. A folder that already holds the same dataset is left as it is.
        labelled: number of labelled cases, at least 1.
        pool: number of unlabelled cases.
        test: number of test cases.
        seed: 0 or more.

    Returns:
        Where everything lies.

    Raises:
        InputError: if a number is negative or there is no labelled case.
        StateError: if the folder holds a synthetic dataset made with other arguments.
    """
    counts = {"labelled": labelled, "pool": pool, "test": test}
    if labelled < 1 or min(*counts.values(), seed) < 0:
        raise InputError(f"cannot make a synthetic dataset of {counts} with seed {seed}; give at least 1 labelled case, else 0 or more.")
    dataset = SyntheticDataset.at(Path(folder))
    marker = dataset.folder / "synthetic.json"
    recipe = {"generator": _GENERATOR, **counts, "seed": seed}
    if marker.is_file():
        if (found := json.loads(marker.read_text(encoding="utf-8"))) != recipe:
            raise StateError(f"{dataset.folder} holds the synthetic dataset {found}, asked for is {recipe}; choose another folder.")
        return dataset

    plans = [plan for group in _GROUPS for plan in _plan_cases(group, counts[group], seed)]
    for group in _GROUPS:
        dataset.images_folder(group).mkdir(parents=True, exist_ok=True)
        dataset.labels_folder(group).mkdir(parents=True, exist_ok=True)
    for plan in plans:
        _write_case(plan, dataset.images_folder(plan.group), dataset.labels_folder(plan.group))
    _write_dataset_json(dataset.dataset_folder, labelled)
    _write_scanners(dataset.scanners_csv, plans)
    marker.write_text(json.dumps(recipe) + "\n", encoding="utf-8")  # last: its presence says that the rest is whole
    return dataset


def _plan_cases(group: str, count: int, seed: int) -> Iterator[_CasePlan]:
    scanners = SEEN_SCANNERS if group == "labelled" else ALL_SCANNERS
    for index in range(count):
        rng = np.random.default_rng([seed, _GROUPS.index(group), index])
        spacing_mm = (THICK_SLICE_MM if index % 4 == 3 else VOXEL_MM, VOXEL_MM, VOXEL_MM)
        extent_mm = rng.integers((32, 36, 32), (41, 45, 41))
        yield _CasePlan(
            case=f"{group}_{index:03d}",
            group=group,
            scanner=scanners[index % len(scanners)],
            enhancing=index % 5 != 2,
            shape=tuple(round(extent / width) for extent, width in zip(extent_mm.tolist(), spacing_mm, strict=True)),
            spacing_mm=spacing_mm,
            rng=rng,
        )


def _write_case(plan: _CasePlan, images_folder: Path, labels_folder: Path) -> None:
    phantom = make_phantom(shape=plan.shape, spacing_mm=plan.spacing_mm, enhancing=plan.enhancing, rng=plan.rng)
    images = acquire(plan.scanner, phantom.signal, spacing_mm=plan.spacing_mm, rng=plan.rng)
    origin = tuple(float(value) for value in np.round(plan.rng.uniform(-60, 60, 3), 1))
    for channel in range(len(CHANNELS)):
        _write_volume(images_folder / f"{plan.case}_{channel:04d}{_FILE_ENDING}", images[channel], plan, origin)
    _write_volume(labels_folder / f"{plan.case}{_FILE_ENDING}", phantom.labels, plan, origin)


def _write_volume(path: Path, array: NDArray[np.int16] | NDArray[np.uint8], plan: _CasePlan, origin_mm: tuple[float, ...]) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(plan.spacing_mm[::-1])
    image.SetOrigin(origin_mm)
    if plan.scanner.flipped:
        image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(image, str(path), useCompression=True)


def _write_dataset_json(dataset_folder: Path, num_training: int) -> None:
    content = {
        "channel_names": {str(index): name for index, name in enumerate(CHANNELS)},
        "labels": LABELS,
        "numTraining": num_training,
        "file_ending": _FILE_ENDING,
    }
    (dataset_folder / "dataset.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_scanners(path: Path, plans: list[_CasePlan]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("case", "group", "scanner"))
        table.writerows((plan.case, plan.group, plan.scanner.name) for plan in plans)
