"""Probabilities from elsewhere: what nnU-Net saves is read, and nothing else."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_setup import DATASET, SHAPE, Project, environment

from nnunet_ssl.errors import InputError
from nnunet_ssl.nnunet_api.preprocessing import load_properties
from nnunet_ssl.nnunet_api.probability_file import read_probabilities
from nnunet_ssl.nnunet_api.setup import NnunetSetup

Read = Callable[..., Any]
REGIONS = {"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]}


def probabilities() -> Any:
    """(3, 18, 22, 20) float32."""
    found = np.random.default_rng(0).uniform(0.1, 1, size=(3, *SHAPE))
    return (found / found.sum(axis=0)).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pool_0.npz"


@pytest.fixture(scope="module")
def setup(built_project: Project) -> NnunetSetup:
    with environment(built_project):
        return built_project.setup()


@pytest.fixture(scope="module")
def stored_properties(built_project: Project) -> dict[str, Any]:
    (pool,) = (built_project.preprocessed / DATASET).glob("*__pool_????????")
    return load_properties(pool, "pool_0")


@pytest.fixture
def read(setup: NnunetSetup, path: Path, stored_properties: dict[str, Any]) -> Read:
    return lambda labels=None: read_probabilities(
        "pool_0", path, replace(setup, dataset_json={**setup.dataset_json, **(labels or {})}), stored_properties
    )


def changed(change: Callable[[Any], Any]) -> Any:
    found = probabilities()
    return found if (other := change(found)) is None else other


def put(value: float) -> Callable[[Any], None]:
    def work(array: Any) -> None:
        array[1, 2, 3, 4] = value

    return work


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_what_nnunet_saves(read: Read, path: Path, dtype: Any) -> None:
    np.savez_compressed(path, probabilities=probabilities().astype(dtype))
    found = read()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, probabilities(), atol=1e-3)


def test_rounding_is_clipped(read: Read, path: Path) -> None:
    array = np.zeros((3, *SHAPE), np.float32)
    array[0], array[1] = 1.0005, -0.0005
    np.savez(path, probabilities=array)
    found = read()
    assert (found.min(), found.max()) == (0, 1)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (changed(put(np.nan)), "has 1 NaN or infinite values; predict the case again"),
        (changed(put(-np.inf)), "has 1 NaN or infinite values"),
        (changed(lambda a: a * 10 - 5), r"has values from -\S+ to \S+; save probabilities in \[0, 1\], not logits"),
        (changed(lambda a: a * 0.5), r"the classes of .* sum to 0\.5 in a voxel; save probabilities that sum to 1"),
        (changed(put(0.0)), "in a voxel"),
        (
            changed(lambda a: a[:2]),
            r"has shape \(2, 18, 22, 20\); expected \(3, 18, 22, 20\), one map for each of the 3 classes with background",
        ),
        (changed(lambda a: a[0]), r"has shape \(18, 22, 20\); expected \(3, 18, 22, 20\)"),
        (changed(lambda a: a.transpose(0, 3, 2, 1)), r"has maps of shape \(20, 22, 18\), the image \(18, 22, 20\)"),
        (changed(lambda a: a.argmax(0)[None].repeat(3, 0)), "holds no array 'probabilities' of floating-point numbers"),
    ],
)
def test_what_is_no_probability(read: Read, path: Path, array: Any, message: str) -> None:
    np.savez(path, probabilities=array)
    with pytest.raises(InputError, match=f"case 'pool_0': .*{message}") as raised:
        read()
    assert str(path) in str(raised.value)


def test_regions_need_not_sum_to_1(read: Read, path: Path) -> None:
    array = np.random.default_rng(0).uniform(0, 1, size=(2, *SHAPE)).astype(np.float32)
    np.savez(path, probabilities=array)
    np.testing.assert_array_equal(read(REGIONS), array)
    np.savez(path, probabilities=probabilities())
    with pytest.raises(InputError, match="one map for each of the 2 regions of Dataset137_Tiny"):
        read(REGIONS)


def test_other_arrays(read: Read, path: Path) -> None:
    np.savez(path, softmax=probabilities())
    with pytest.raises(InputError, match="holds no array 'probabilities'"):
        read()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_damaged_file(read: Read, path: Path, share: float) -> None:
    np.savez_compressed(path, probabilities=probabilities())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match=r"pool_0\.npz cannot be read .*predict the case again with --save_probabilities"):
        read()


def test_array_of_objects_is_not_opened(read: Read, path: Path) -> None:
    np.savez(path, probabilities=np.array([Bomb()], dtype=object))
    with pytest.raises(InputError, match="cannot be read"):
        read()


# ---- the properties beside it


class Bomb:
    """A pickle that runs code."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("exploded",)


def save_with(path: Path, properties: Any) -> None:
    np.savez(path, probabilities=probabilities())
    path.with_suffix(".pkl").write_bytes(pickle.dumps(properties))


def test_properties_of_the_same_image(read: Read, path: Path, stored_properties: dict[str, Any]) -> None:
    save_with(path, {**stored_properties, "array": np.eye(4), "number": np.float64(1), "index": np.int64(3)})
    assert read().shape == (3, *SHAPE)


def test_properties_of_another_image(read: Read, path: Path, stored_properties: dict[str, Any]) -> None:
    stuff = stored_properties["sitk_stuff"]
    save_with(path, {**stored_properties, "sitk_stuff": {**stuff, "origin": (0.0, 0.0, 0.0)}})
    with pytest.raises(InputError, match=r"lies on another grid than the image \(pool_0\.pkl\)"):
        read()


def test_properties_that_carry_code_are_not_opened(
    read: Read, path: Path, stored_properties: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_with(path, {**stored_properties, "bomb": Bomb()})
    with pytest.raises(InputError, match=r"pool_0\.pkl is not what nnUNetv2_predict leaves \(it holds \w+\.mkdir\) and was not opened"):
        read()
    assert not (tmp_path / "exploded").exists()
