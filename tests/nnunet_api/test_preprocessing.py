"""An unlabelled case is looked at before nnU-Net does, and preprocessed by nnU-Net's own preprocessor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from tiny_setup import CONFIGURATION, DATASET, IDENTIFIER, Project, phantom, write_image

from nnunet_ssl.errors import InputError
from nnunet_ssl.nnunet_api.preprocessing import PARTS, check_case, load_properties, preprocess_case

IMAGE = np.random.default_rng(0).uniform(1, 2, size=(5, 6, 7)).astype(np.float32)


def write_channels(folder: Path, first: Any, second: Any, **second_geometry: Any) -> list[str]:
    paths = [folder / "c_0000.nii.gz", folder / "c_0001.nii.gz"]
    write_image(first, paths[0])
    write_image(second, paths[1])
    if second_geometry:
        image = sitk.ReadImage(str(paths[1]))
        for name, value in second_geometry.items():
            getattr(image, f"Set{name}")(value)
        sitk.WriteImage(image, str(paths[1]))
    return [str(p) for p in paths]


def of_two_channels(project: Project) -> dict[str, Any]:
    """The plans of a dataset whose cases have two channels."""
    plans = project.setup().plans
    (of_one,) = plans["foreground_intensity_properties_per_channel"].values()
    return {**plans, "foreground_intensity_properties_per_channel": {"0": of_one, "1": of_one}}


def test_sound_case_passes(project: Project, tmp_path: Path, capfd: Any) -> None:
    check_case("c", write_channels(tmp_path, IMAGE, IMAGE), of_two_channels(project), CONFIGURATION, [0, 1, 2])
    assert capfd.readouterr().out == ""


def test_surplus_channel_is_refused(project: Project, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"case 'c': .*c_0000.nii.gz and what goes with it hold 2 channels where labelled cases have 1"):
        check_case("c", write_channels(tmp_path, IMAGE, IMAGE), project.setup().plans, CONFIGURATION, [0, 1, 2])


def test_one_empty_channel_is_named(project: Project, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_case("c", write_channels(tmp_path, IMAGE, np.zeros_like(IMAGE)), of_two_channels(project), CONFIGURATION, [0, 1, 2])
    (record,) = caplog.records
    assert "case 'c': every voxel of" in record.getMessage()
    assert "c_0001.nii.gz is zero; a channel that is missing is labelled as if it were an image" in record.getMessage()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("reader", "ending"), [("NibabelIO", ".nii.gz"), ("SimpleITKIO", ".nii.gz"), ("SimpleITKIO", ".nrrd")])
def test_voxels_without_a_number(project: Project, tmp_path: Path, value: float, reader: str, ending: str) -> None:
    """SimpleITK reads such voxels of a NIfTI file as 0; they are found nevertheless."""
    broken = IMAGE.copy()
    broken[0, 1, 2] = broken[3, 3, 3] = value
    write_image(IMAGE, tmp_path / f"c_0000{ending}")
    write_image(broken, tmp_path / f"c_0001{ending}")
    paths = [str(tmp_path / f"c_000{i}{ending}") for i in range(2)]
    with pytest.raises(InputError, match=rf"case 'c': .*c_0001{ending} has 2 NaN or infinite voxels"):
        check_case("c", paths, {**project.setup().plans, "image_reader_writer": reader}, CONFIGURATION, [0, 1, 2])


def test_empty_image(project: Project, tmp_path: Path) -> None:
    paths = write_channels(tmp_path, np.zeros_like(IMAGE), np.zeros_like(IMAGE))
    with pytest.raises(InputError, match=r"case 'c': every voxel of .*c_0000\.nii\.gz is zero"):
        check_case("c", paths, project.setup().plans, CONFIGURATION, [0, 1, 2])


def test_unreadable_file(project: Project, tmp_path: Path) -> None:
    paths = write_channels(tmp_path, IMAGE, IMAGE)
    Path(paths[1]).write_bytes(b"no image")
    with pytest.raises(InputError, match=r"case 'c': .*c_0001\.nii\.gz cannot be read \(.+\)") as raised:
        check_case("c", paths, project.setup().plans, CONFIGURATION, [0, 1, 2])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("reader", "ending"),
    [("SimpleITKIO", ".nii.gz"), ("SimpleITKIO", ".nii"), ("SimpleITKIO", ".nrrd"), ("NibabelIO", ".nii.gz"), ("NibabelIO", ".nii")],
)
def test_truncated_file(project: Project, tmp_path: Path, ending: str, reader: str) -> None:
    """SimpleITK fills the missing part of a NIfTI file with zeros and says nothing."""
    path = tmp_path / f"c_0000{ending}"
    write_image(IMAGE, path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(InputError, match=rf"case 'c': .*c_0000{ending} cannot be read"):
        check_case("c", [str(path)], {**project.setup().plans, "image_reader_writer": reader}, CONFIGURATION, [0, 1, 2])


@pytest.mark.parametrize(
    "geometry",
    [{"Spacing": (1.0, 1.0, 1.1)}, {"Origin": (5.0, -3.5, 12.5)}, {"Direction": (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)}],
    ids=lambda g: next(iter(g)),
)
@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO"])
def test_channels_of_other_geometry(project: Project, tmp_path: Path, geometry: dict[str, Any], reader: str) -> None:
    paths = write_channels(tmp_path, IMAGE, IMAGE, **geometry)
    with pytest.raises(InputError, match="differ in spacing, origin or direction"):
        check_case("c", paths, {**project.setup().plans, "image_reader_writer": reader}, CONFIGURATION, [0, 1, 2])


def test_rounding_in_a_header_is_no_other_geometry(project: Project, tmp_path: Path) -> None:
    check_case(
        "c", write_channels(tmp_path, IMAGE, IMAGE, Origin=(5.00001, -3.5, 12.0)), of_two_channels(project), CONFIGURATION, [0, 1, 2]
    )


def test_channels_of_other_size(project: Project, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\(5, 6, 7\) voxels, .*c_0001\.nii\.gz is \(5, 6, 6\)"):
        check_case("c", write_channels(tmp_path, IMAGE, IMAGE[:, :, 1:]), project.setup().plans, CONFIGURATION, [0, 1, 2])


def preprocess(project: Project, image: Path, out: Path, tmp: Path) -> None:
    setup = project.setup()
    for folder in (out, tmp):
        folder.mkdir(exist_ok=True)
    preprocess_case("c", [str(image)], setup.plans, CONFIGURATION, json.dumps(setup.dataset_json), out, tmp)


def test_image_is_what_nnunet_would_train_on(project: Project, tmp_path: Path) -> None:
    """The image of a labelled case, preprocessed as if it were unlabelled, equals nnU-Net's own preprocessed file."""
    preprocess(project, project.raw / DATASET / "imagesTr" / "lab_1_0000.nii.gz", tmp_path / "out", tmp_path / "tmp")
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == sorted(f"c{part}" for part in PARTS)
    assert list((tmp_path / "tmp").iterdir()) == []
    ours, seg, _, properties = nnUNetDatasetBlosc2(str(tmp_path / "out"), ["c"]).load_case("c")
    theirs, _, _, expected = nnUNetDatasetBlosc2(str(project.preprocessed / DATASET / IDENTIFIER), ["lab_1"]).load_case("lab_1")
    assert np.array_equal(ours[:], theirs[:])
    assert set(np.unique(seg[:])) == {0}
    assert properties["spacing"] == expected["spacing"]
    assert load_properties(tmp_path / "out", "c")["shape_before_cropping"] == phantom("lab_1")[0].shape


def test_nonzero_mask_is_kept(project: Project, tmp_path: Path) -> None:
    image = IMAGE.copy()
    image[0], image[3, 3, 3:] = 0, 0
    write_image(image, tmp_path / "c_0000.nii.gz")
    project.change_plans(lambda plans, configuration: configuration.update(use_mask_for_norm=[True]))
    preprocess(project, tmp_path / "c_0000.nii.gz", tmp_path / "out", tmp_path / "tmp")
    _, seg, _, properties = nnUNetDatasetBlosc2(str(tmp_path / "out"), ["c"]).load_case("c")
    assert seg.shape == (1, 4, 6, 7)
    assert properties["bbox_used_for_cropping"][0][0] == 1
    assert set(np.unique(seg[:])) == {-1, 0}
    assert int((seg[:] < 0).sum()) == 4


def test_nothing_stays_of_a_case_that_fails(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ValueError("odd image")

    monkeypatch.setattr("nnunetv2.preprocessing.preprocessors.default_preprocessor.DefaultPreprocessor.run_case", fails)
    write_image(IMAGE, tmp_path / "c_0000.nii.gz")
    with pytest.raises(InputError, match=r"case 'c': nnU-Net cannot preprocess .*c_0000\.nii\.gz \(odd image\)"):
        preprocess(project, tmp_path / "c_0000.nii.gz", tmp_path / "out", tmp_path / "tmp")
    assert list((tmp_path / "out").iterdir()) == []
