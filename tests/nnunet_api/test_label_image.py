"""What is looked at before a label that somebody gives back is believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from tiny_setup import DATASET, LABELS, ORIGIN, SHAPE, Project, environment, phantom, write_image

from nnunet_ssl.errors import InputError
from nnunet_ssl.nnunet_api.label_image import check_label
from nnunet_ssl.nnunet_api.preprocessing import load_properties
from nnunet_ssl.nnunet_api.setup import NnunetSetup

IGNORE = 3


@pytest.fixture(scope="module")
def setup(built_project: Project) -> NnunetSetup:
    with environment(built_project):
        return built_project.setup()


@pytest.fixture
def check(built_project: Project, setup: NnunetSetup, tmp_path: Path) -> Callable[..., bool]:
    """Writes an array as the label of `pool_0` and checks it; `labels` are those of dataset.json."""
    path = tmp_path / "pool_0.nii.gz"
    (pool,) = (built_project.preprocessed / DATASET).glob("*__pool_????????")

    def work(array: Any = None, *, labels: dict[str, Any] | None = None) -> bool:
        if array is not None:
            write_image(array, path)
        declared = replace(setup, dataset_json={**setup.dataset_json, **(labels or {})})
        return check_label("pool_0", path, declared, load_properties(pool, "pool_0"))

    return work


def label() -> Any:
    return phantom("pool_0")[1]


def with_value(value: Any, dtype: Any = np.uint8) -> Any:
    changed = label().astype(dtype)
    changed[:3] = value
    return changed


def test_whole_label(check: Callable[..., bool]) -> None:
    assert check(label()) is False
    assert check(label().astype(np.float32)) is False
    assert check(np.zeros(SHAPE, np.uint8)) is False  # nothing is there, says somebody


def test_partial_label(check: Callable[..., bool]) -> None:
    labels = {"labels": {**LABELS, "ignore": IGNORE}}
    assert check(with_value(IGNORE), labels=labels) is True
    assert check(label(), labels=labels) is False


def test_regions_know_their_label_values(check: Callable[..., bool]) -> None:
    regions = {"labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": IGNORE}, "regions_class_order": [1, 2]}
    assert check(label(), labels=regions) is False
    assert check(with_value(IGNORE), labels=regions) is True
    with pytest.raises(InputError, match="has the value 4"):
        check(with_value(4), labels=regions)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (with_value(7), r"case 'pool_0': .*pool_0\.nii\.gz has the value 7; Dataset137_Tiny has 0, 1, 2 and no ignore label"),
        (with_value(1.5, np.float32), "has the value 1.5;"),
        (with_value(-1, np.int16), "has the value -1;"),
        (with_value(np.nan, np.float32), "has NaN or infinite voxels; correct it"),
        (label()[1:], r"has shape \(1, 17, 22, 20\), its image \(1, 18, 22, 20\); save the label on the image's grid"),
        (np.swapaxes(label(), 0, 2), r"has shape \(1, 20, 22, 18\)"),
    ],
)
def test_label_that_does_not_fit(check: Callable[..., bool], array: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check(array)


def test_value_beyond_the_ignore_label(check: Callable[..., bool]) -> None:
    with pytest.raises(InputError, match="has the value 255; Dataset137_Tiny has 0, 1, 2 and 3 for what is not annotated; correct it"):
        check(with_value(255), labels={"labels": {**LABELS, "ignore": IGNORE}})


def test_nothing_but_the_ignore_label(check: Callable[..., bool]) -> None:
    with pytest.raises(InputError, match=r"has nothing but the ignore label \(3\); annotate a part of it or leave it out"):
        check(np.full(SHAPE, IGNORE, np.uint8), labels={"labels": {**LABELS, "ignore": IGNORE}})


@pytest.mark.parametrize("name", ["spacing", "origin", "direction"])
def test_other_place_in_space(check: Callable[..., bool], tmp_path: Path, name: str) -> None:
    write_image(label(), tmp_path / "pool_0.nii.gz")
    image = sitk.ReadImage(str(tmp_path / "pool_0.nii.gz"))
    if name == "spacing":
        image.SetSpacing((1.0, 1.0, 1.01))
    elif name == "origin":
        image.SetOrigin((ORIGIN[0] + 0.01, *ORIGIN[1:]))
    else:
        image.SetDirection(np.eye(3).ravel().tolist())
    sitk.WriteImage(image, str(tmp_path / "pool_0.nii.gz"))
    with pytest.raises(InputError, match="and its image differ in spacing, origin or direction"):
        check()


def test_truncated_label(check: Callable[..., bool], tmp_path: Path) -> None:
    """SimpleITK would read zeros, which is background, without a word."""
    path = tmp_path / "pool_0.nii.gz"
    write_image(np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"case 'pool_0': .*pool_0\.nii\.gz cannot be read"):
        check()
