"""A folder of cases as one downloads BraTS 2021: tiny, at 4 mm, with the values and names of the real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

CHANNELS = ("t1", "t1ce", "t2", "flair")
SHAPE = (18, 24, 20)
"""Array axes (z, y, x)."""
SPACING_MM = 4.0


def case_name(number: int) -> str:
    return f"BraTS2021_{number:05d}"


def brats_case(number: int) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Images (4, z, y, x) of a head in a frame of zeros, and its labels; every third tumour has no enhancing part (4)."""
    random = np.random.default_rng(number)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij"))
    head = np.linalg.norm(grid, axis=0) < 0.95
    distance = np.linalg.norm(grid - random.uniform(-0.25, 0.25, (3, 1, 1, 1)), axis=0)
    label = np.zeros(SHAPE, dtype=np.uint8)
    for value, radius in ((2, 0.6), (1, 0.45), (4, 0.3)):
        if value != 4 or number % 3:
            label[distance < radius] = value
    bright = np.array([0, 150, 300, 0, 450])[label]  # by label: 1 necrosis, 2 oedema, 4 enhancing
    images = np.stack([400 + (channel + 1) * bright / 2 + random.normal(0, 40, SHAPE) for channel in range(len(CHANNELS))])
    return (images.clip(1, None) * head).astype(np.int16), label * head


def write_volume(array: NDArray[np.int16] | NDArray[np.uint8], path: Path) -> None:
    """Write an array (z, y, x) in the geometry of all cases, which is BraTS's but for the spacing."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((SPACING_MM,) * 3)
    image.SetOrigin((0.0, -239.0, 0.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def write_brats_folder(folder: Path, numbers: range) -> None:
    """One folder per case, each with four images and the labels."""
    for number in numbers:
        case = case_name(number)
        images, label = brats_case(number)
        for channel, image in zip(CHANNELS, images, strict=True):
            write_volume(image, folder / case / f"{case}_{channel}.nii.gz")
        write_volume(label, folder / case / f"{case}_seg.nii.gz")
