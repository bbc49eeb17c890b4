"""From the network's grid to the image's: against nnU-Net's own way back, and files that lie where the image lies."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from batchgenerators.utilities.file_and_folder_operations import load_pickle
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from tiny_setup import DATASET, DIRECTION, IDENTIFIER, ORIGIN, PLANS, Project, write_image

from nnunet_ssl.errors import StateError
from nnunet_ssl.nnunet_api.geometry import (
    image_shape,
    map_ending,
    sample_class_locations,
    to_image_grid,
    to_network_grid,
    write_label,
    write_map,
)
from nnunet_ssl.nnunet_api.setup import NnunetSetup

SPACING = (1.5, 0.8, 1.1)
"""In SimpleITK's order (x, y, z)."""


class ProbabilityManager(LabelManager):
    """Takes what it is given for probabilities, so that nnU-Net's way back resamples the same numbers as ours."""

    def apply_inference_nonlin(self, logits: Any) -> torch.Tensor:
        return torch.as_tensor(logits)


def changed(setup: NnunetSetup, *, configuration: str = "3d_fullres", **changes: Any) -> NnunetSetup:
    """The set-up with other plans in memory; `changes` go to the configuration, `transpose` to the plans."""
    plans = copy.deepcopy(setup.plans)
    if transpose := changes.pop("transpose", None):
        plans |= {"transpose_forward": transpose, "transpose_backward": [transpose.index(i) for i in range(3)]}
    plans["configurations"][configuration].update(changes)
    return NnunetSetup(setup.dataset, PLANS, configuration, plans, setup.dataset_json)


def preprocessed(setup: NnunetSetup, folder: Path, *, border: int) -> tuple[tuple[int, ...], dict[str, Any], Path]:
    """Shape on the network's grid and properties of an image with an empty border, by nnU-Net's preprocessor."""
    image = np.pad(np.random.default_rng(0).uniform(1, 2, size=(10, 12, 14)), [(border, 0), (0, border), (border, 1)])
    write_image(image.astype(np.float32), folder / "image_0000.nii.gz", spacing=SPACING)
    preprocessor = setup.configuration_manager.preprocessor_class(verbose=False)
    data, _, properties = preprocessor.run_case(
        [str(folder / "image_0000.nii.gz")], None, setup.plans_manager, setup.configuration_manager, setup.dataset_json
    )
    return data.shape[1:], properties, folder / "image_0000.nii.gz"


CASES = {
    "as it is": {"spacing": [1.1, 0.8, 1.5]},
    "cropped": {"spacing": [1.1, 0.8, 1.5], "border": 3},
    "resampled": {"spacing": [0.9, 1.3, 1.0]},
    "transposed": {"spacing": [1.5, 1.1, 0.8], "transpose": [2, 0, 1]},
    "cropped, resampled and transposed": {"spacing": [1.0, 1.0, 1.2], "transpose": [1, 2, 0], "border": 3},
    "slice by slice": {"spacing": [1.0, 1.2], "configuration": "2d", "border": 2},
}


@pytest.mark.parametrize("name", CASES)
def test_way_back_is_nnunets_own(project: Project, tmp_path: Path, name: str) -> None:
    changes = dict(CASES[name])
    border = changes.pop("border", 0)
    setup = changed(project.setup(), **changes)
    shape, properties, _ = preprocessed(setup, tmp_path, border=border)
    maps = torch.softmax(torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)) * 2, 0).numpy()
    labels = ProbabilityManager(setup.dataset_json["labels"], None)
    segmentation, expected = convert_predicted_logits_to_segmentation_with_correct_shape(
        maps.copy(), setup.plans_manager, setup.configuration_manager, labels, copy.deepcopy(properties), True, 1
    )
    found = to_image_grid(maps.copy(), np.array([1, 0, 0], np.float32), setup, properties)
    assert found.dtype == np.float32
    assert found.flags["C_CONTIGUOUS"]
    assert found.shape[1:] == (10 + border, 12 + border, 15 + border)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.array_equal(found.argmax(0), segmentation)


@pytest.mark.parametrize("name", CASES)
def test_way_there_is_that_of_the_image(project: Project, tmp_path: Path, name: str) -> None:
    """An image that nnU-Net neither normalises nor interpolates in another way than probabilities takes the same way."""
    changes = dict(CASES[name])
    border = changes.pop("border", 0)
    base = project.setup()
    probabilities = {key: base.configuration_manager.configuration[f"resampling_fn_probabilities{key}"] for key in ("", "_kwargs")}
    as_probabilities = {f"resampling_fn_data{key}": value for key, value in probabilities.items()}
    setup = changed(base, normalization_schemes=["NoNormalization"], **as_probabilities, **changes)
    shape, properties, path = preprocessed(setup, tmp_path, border=border)
    reader, preprocessor = setup.plans_manager.image_reader_writer_class(), setup.configuration_manager.preprocessor_class(verbose=False)
    image, _ = reader.read_images([str(path)])
    expected, _, _ = preprocessor.run_case([str(path)], None, setup.plans_manager, setup.configuration_manager, setup.dataset_json)
    found = to_network_grid(image, shape, setup, properties)
    assert image_shape(setup, properties) == image.shape[1:]
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_values_outside_the_crop_are_the_given_ones(project: Project, tmp_path: Path) -> None:
    setup = changed(project.setup(), spacing=[1.1, 0.8, 1.5])
    shape, properties, _ = preprocessed(setup, tmp_path, border=3)
    assert shape == (10, 12, 14)
    found = to_image_grid(np.full((2, *shape), 0.25, np.float32), np.array([0.5, 0.75], np.float32), setup, properties)
    inside = np.zeros((13, 15, 18), dtype=bool)
    inside[3:, :12, 3:17] = True
    for channel, outside in zip(found, (0.5, 0.75), strict=True):
        assert np.array_equal(channel, np.where(inside, np.float32(0.25), np.float32(outside)))


# ---- files


def geometry(path: Path) -> tuple[Any, ...]:
    image = sitk.ReadImage(str(path))
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"])
def test_files_lie_where_the_image_lies(project: Project, tmp_path: Path, reader: str) -> None:
    setup = changed(project.setup())
    setup.plans["image_reader_writer"] = reader
    image = np.random.default_rng(1).uniform(size=(6, 5, 4)).astype(np.float32)
    write_image(image, tmp_path / "image.nii.gz", spacing=SPACING)
    io = setup.plans_manager.image_reader_writer_class()
    data, properties = io.read_images([str(tmp_path / "image.nii.gz")])
    values = (data[0] - data.min()) / 2
    write_map(values, tmp_path / "map.nii.gz", properties)
    write_label((values > 0.2).astype(np.uint8), tmp_path / "label.nii.gz", setup, properties)
    for name in ("map.nii.gz", "label.nii.gz"):
        for found, wanted in zip(geometry(tmp_path / name), geometry(tmp_path / "image.nii.gz"), strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-5)
    again, _ = io.read_images([str(tmp_path / "map.nii.gz")])
    np.testing.assert_allclose(again[0], np.round(values, 3), atol=1e-6)
    label, _ = io.read_seg(str(tmp_path / "label.nii.gz"))
    assert np.array_equal(label[0], values > 0.2)
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "map.nii.gz")))
    assert written.dtype == np.float32
    np.testing.assert_allclose(written, np.round((image - data.min()) / 2, 3), atol=1e-6)


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"])
def test_maps_of_regions_have_a_channel_each(project: Project, tmp_path: Path, reader: str) -> None:
    setup = changed(project.setup())
    setup.plans["image_reader_writer"] = reader
    write_image(np.arange(6 * 5 * 4, dtype=np.float32).reshape(6, 5, 4), tmp_path / "image.nii.gz", spacing=SPACING)
    data, properties = setup.plans_manager.image_reader_writer_class().read_images([str(tmp_path / "image.nii.gz")])
    write_map(np.stack([data[0] / 120, 1 - data[0] / 120]), tmp_path / "map.nii.gz", properties)
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "map.nii.gz")))
    ramp = np.arange(6 * 5 * 4).reshape(6, 5, 4) / 120
    if reader == "SimpleITKIO":
        assert geometry(tmp_path / "map.nii.gz") == geometry(tmp_path / "image.nii.gz")
        written = np.moveaxis(written, -1, 0)
    np.testing.assert_allclose(written, np.stack([ramp, 1 - ramp]), atol=6e-4)


def test_flat_images_of_simpleitk_stay_flat(project: Project, tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.random.default_rng(2).uniform(size=(5, 7)).astype(np.float32))
    image.SetSpacing((0.5, 2.0))
    image.SetOrigin((3.0, 4.0))
    sitk.WriteImage(image, str(tmp_path / "image.mha"))
    setup = project.setup()
    data, properties = setup.plans_manager.image_reader_writer_class().read_images([str(tmp_path / "image.mha")])
    assert data.shape == (1, 1, 5, 7)
    write_map(data[0], tmp_path / "map.mha", properties)
    write_map(np.stack([data[0], 1 - data[0]]), tmp_path / "regions.mha", properties)
    assert geometry(tmp_path / "map.mha") == geometry(tmp_path / "regions.mha") == geometry(tmp_path / "image.mha")


def test_images_without_geometry(project: Project, tmp_path: Path) -> None:
    write_map(np.full((1, 5, 7), 0.1234567, np.float32), tmp_path / "map.nii.gz", {"spacing": (999, 1, 1)})
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "map.nii.gz"))), np.full((1, 5, 7), 0.123, np.float32))


@pytest.mark.parametrize(("ending", "expected"), [(".nii.gz", ".nii.gz"), (".nrrd", ".nrrd"), (".png", ".nii.gz"), (".tif", ".nii.gz")])
def test_endings_of_maps_can_hold_floats(project: Project, ending: str, expected: str) -> None:
    setup = project.setup()
    of_ending = NnunetSetup(
        setup.dataset, setup.plans_name, setup.configuration, setup.plans, {**setup.dataset_json, "file_ending": ending}
    )
    assert map_ending(of_ending) == expected


def test_our_geometry_is_not_the_default() -> None:
    assert ORIGIN != (0.0, 0.0, 0.0)
    assert DIRECTION != (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


# ---- class locations


def test_class_locations_are_nnunets_own(project: Project) -> None:
    folder = project.preprocessed / DATASET / IDENTIFIER
    _, seg, _, properties = nnUNetDatasetBlosc2(str(folder), ["lab_2"]).load_case("lab_2")
    found = sample_class_locations(seg[:], project.setup())
    expected = load_pickle(str(folder / "lab_2.pkl"))["class_locations"]
    assert found.keys() == expected.keys() == properties["class_locations"].keys()
    for label in found:
        assert np.array_equal(found[label], expected[label])


def test_negative_voxels_are_no_class(project: Project) -> None:
    seg = np.full((1, 4, 4, 4), -2, np.int16)
    seg[0, 0], seg[0, 1, 1] = -1, 1
    found = sample_class_locations(seg, project.setup())
    assert {tuple(row) for row in found[1]} == {(0, 1, 1, z) for z in range(4)}
    assert len(found[2]) == 0


def test_datasets_with_ignore_label_know_where_labels_are(project: Project) -> None:
    setup = project.setup()
    labels = {**setup.dataset_json["labels"], "ignore": 3}
    ignoring = NnunetSetup(setup.dataset, setup.plans_name, setup.configuration, setup.plans, {**setup.dataset_json, "labels": labels})
    seg = np.full((1, 4, 4, 4), -2, np.int16)
    seg[0, 0, 0] = [-1, 0, 1, 2]
    found = sample_class_locations(seg, ignoring)
    assert set(found) == {1, 2, (-1, 0, 1, 2)}
    assert {tuple(row) for row in found[-1, 0, 1, 2]} == {(0, 0, 0, z) for z in range(4)}
    taught = np.zeros(seg.shape, dtype=bool)
    taught[0, 3, 3, :2] = True  # by probabilities, where no class is trusted
    given = sample_class_locations(seg, ignoring, taught)
    assert {tuple(row) for row in given[-1, 0, 1, 2]} == {(0, 3, 3, 0), (0, 3, 3, 1)}
    assert all(np.array_equal(given[label], found[label]) for label in (1, 2))


def test_regions_are_sampled_as_a_whole(project: Project) -> None:
    setup = project.setup()
    content = {**setup.dataset_json, "labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]}
    regions = NnunetSetup(setup.dataset, setup.plans_name, setup.configuration, setup.plans, content)
    seg = np.zeros((1, 2, 2, 2), np.int16)
    seg[0, 0, 0] = [1, 2]
    found = sample_class_locations(seg, regions)
    by_size = sorted(len(v) for v in found.values())
    assert by_size == [1, 2]


@pytest.mark.parametrize("reader", ["SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient"])
@pytest.mark.parametrize("channels", [1, 2])
def test_maps_lie_on_the_grid_of_the_label_where_axes_are_permuted(project: Project, tmp_path: Path, reader: str, channels: int) -> None:
    """A sagittal acquisition: some readers turn it, and nnU-Net's writers turn labels back."""
    values = np.random.default_rng(1).uniform(size=(4, 5, 6)).astype(np.float32)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((1.0, 2.0, 3.0))
    image.SetDirection((0, 0, -1, 1, 0, 0, 0, 1, 0))
    sitk.WriteImage(image, str(tmp_path / "image.nii.gz"))
    setup = changed(project.setup())
    setup.plans["image_reader_writer"] = reader
    data, properties = setup.plans_manager.image_reader_writer_class().read_images([str(tmp_path / "image.nii.gz")])
    maps = data[0] if channels == 1 else np.stack([data[0], 1 - data[0]])
    write_map(maps, tmp_path / "map.nii.gz", properties)
    write_label((data[0] > 0.5).astype(np.uint8), tmp_path / "label.nii.gz", setup, properties)
    label, found = (sitk.ReadImage(str(tmp_path / f"{name}.nii.gz")) for name in ("label", "map"))
    size = label.GetSize()
    assert found.GetSize()[:3] == size
    array = sitk.GetArrayFromImage(found)
    if channels == 2:
        array = array[..., 0] if array.shape[-1] == 2 else array[0]
    assert np.array_equal(np.asarray(array) > 0.5, sitk.GetArrayFromImage(label) > 0)
    np.testing.assert_allclose(array, np.round(values, 3), atol=1e-6)


def test_maps_of_tiff_images_have_their_spacing(project: Project, tmp_path: Path) -> None:
    write_map(np.zeros((4, 5, 6), np.float32), tmp_path / "map.nii.gz", {"spacing": [3.0, 0.5, 0.25]})
    assert sitk.ReadImage(str(tmp_path / "map.nii.gz")).GetSpacing() == (0.25, 0.5, 3.0)


class NumpyIO:
    """A reader of the user's own, of files that no imaging library knows."""

    def write_seg(self, seg: np.ndarray[Any, Any], output_fname: str, properties: dict[str, Any]) -> None:
        np.save(output_fname, seg)
        os.truncate(output_fname, int(os.path.getsize(output_fname) * properties["share"]))

    def read_seg(self, seg_fname: str) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
        return np.load(seg_fname)[None], {}


def test_labels_are_read_back_by_the_reader_that_wrote_them(tmp_path: Path) -> None:
    setup: Any = SimpleNamespace(plans_manager=SimpleNamespace(image_reader_writer_class=NumpyIO))
    labels = np.arange(24).reshape(2, 3, 4)
    write_label(labels, tmp_path / "a.npy", setup, {"share": 1})
    assert np.array_equal(np.load(tmp_path / "a.npy"), labels)
    with pytest.raises(StateError, match=r"a\.npy could not be written in full"):
        write_label(labels, tmp_path / "a.npy", setup, {"share": 0.8})
