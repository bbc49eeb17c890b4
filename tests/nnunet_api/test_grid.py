"""Grids are compared by where their voxels lie, whichever reader of nnU-Net told it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from tiny_setup import write_image

from nnunet_ssl.nnunet_api.grid import same_grid

SPACING = (1.5, 0.8, 1.1)


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "image.nii.gz"
    write_image(np.zeros((3, 4, 5), np.float32), path, spacing=SPACING)
    return str(path)


def read(reader: Any, path: str) -> dict[str, Any]:
    return dict(reader().read_images([path])[1])


def test_two_readers_that_turn_nothing_agree(image: str) -> None:
    assert same_grid(read(SimpleITKIO, image), read(SimpleITKIO, image))
    assert same_grid(read(SimpleITKIO, image), read(NibabelIO, image))


def test_reader_that_turns_the_axes_has_another_grid(image: str) -> None:
    assert same_grid(read(NibabelIOWithReorient, image), read(NibabelIO, image))  # this one is RAS already
    mirrored = nibabel.orientations.axcodes2ornt("LPS")
    nibabel.save(nibabel.load(image).as_reoriented(mirrored), image)  # type: ignore[attr-defined]
    assert same_grid(read(SimpleITKIO, image), read(NibabelIO, image))
    assert not same_grid(read(NibabelIOWithReorient, image), read(NibabelIO, image))


@pytest.mark.parametrize("name", ["spacing", "origin", "direction"])
@pytest.mark.parametrize(("shift", "same"), [(1e-4, True), (1e-2, False)])
def test_small_differences_are_rounding(image: str, name: str, shift: float, same: bool) -> None:
    properties = read(SimpleITKIO, image)
    other = {**properties, "sitk_stuff": dict(properties["sitk_stuff"])}
    place = other if name == "spacing" else other["sitk_stuff"]
    place[name] = [place[name][0] + shift, *place[name][1:]]
    assert same_grid(properties, other) is same


def test_readers_that_know_no_place_in_space() -> None:
    assert same_grid({"spacing": (999, 1, 1)}, {"spacing": (999, 1, 1)})
    assert not same_grid({"spacing": (999, 1, 1)}, {"spacing": (999, 1, 2)})
    assert not same_grid({"spacing": (1, 1, 1)}, {"spacing": (1, 1, 1), "nibabel_stuff": {"original_affine": np.eye(4)}})
