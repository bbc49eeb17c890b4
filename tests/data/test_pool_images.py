"""Which files of a folder are images of the pool, and which names go together, in one folder and over several."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_setup import DATASET, POOL, Project

from nnunet_ssl.data.pool_images import collect_images, find_images
from nnunet_ssl.errors import InputError
from nnunet_ssl.nnunet_api.preprocessing import check_case
from nnunet_ssl.nnunet_api.setup import NnunetSetup


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_channels_are_grouped_by_case(tmp_path: Path) -> None:
    touch(tmp_path, "b_0000.nii.gz", "b_0001.nii.gz", "a_x_0001.nii.gz", "a_x_0000.nii.gz")
    found, bad = find_images(tmp_path, ".nii.gz", 2)
    assert bad == {}
    assert list(found) == ["a_x", "b"]
    assert found["b"] == (str(tmp_path / "b_0000.nii.gz"), str(tmp_path / "b_0001.nii.gz"))


@pytest.mark.parametrize(
    "label",
    [
        "a.nii.gz",
        "a_seg.nii.gz",
        "a_0000_seg.nii.gz",
        "a_00000.nii.gz",
        "a_000.nii.gz",
        "a-0000.nii.gz",
        "a_0000.nii",
        "a_0000.nii.gz.json",
        "labelsTr/a.nii.gz",
        "labelsTr/a_0000.nii.gz",
        "_0000.nii.gz",
    ],
)
def test_other_files_are_no_images(tmp_path: Path, label: str) -> None:
    touch(tmp_path, "a_0000.nii.gz", label)
    assert find_images(tmp_path, ".nii.gz", 1) == ({"a": (str(tmp_path / "a_0000.nii.gz"),)}, {})


def test_label_of_a_case_whose_name_ends_like_a_channel(tmp_path: Path) -> None:
    """Case `scan_0000` has the image `scan_0000_0000` and the label `scan_0000`, which looks like an image of a case `scan`."""
    touch(tmp_path, "scan_0000_0000.nii.gz", "scan_0001_0000.nii.gz", "scan_0000.nii.gz", "scan_0001.nii.gz")
    found, bad = find_images(tmp_path, ".nii.gz", 1)
    assert (sorted(found), bad) == (["scan_0000", "scan_0001"], {})


def test_channel_that_may_be_the_label_of_another_case(tmp_path: Path) -> None:
    """`P12_0001` is channel 1 of `P12`, or the label of the case `P12_0001`: it is not opened, and the reason is said."""
    touch(tmp_path, "P12_0000.nii.gz", "P12_0001.nii.gz", "P12_0001_0000.nii.gz", "P12_0001_0001.nii.gz")
    found, bad = find_images(tmp_path, ".nii.gz", 2)
    assert list(found) == ["P12_0001"]
    path = tmp_path / "P12_0001.nii.gz"
    said = f"{path} may be a channel of it or the label of case 'P12_0001', and is not opened; rename one of the two cases."
    assert bad == {"P12": f"case 'P12': {said}"}


def test_folders_are_no_images(tmp_path: Path) -> None:
    touch(tmp_path, "a_0000.nii.gz", "b_0000.nii.gz/file")
    assert list(find_images(tmp_path, ".nii.gz", 1)[0]) == ["a"]


def test_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "u", "a_0000.nii.gz")
    monkeypatch.chdir(tmp_path)
    assert find_images(Path("u"), ".nii.gz", 1)[0] == {"a": (str(tmp_path / "u" / "a_0000.nii.gz"),)}


def test_incomplete_and_surplus_channels(tmp_path: Path) -> None:
    touch(tmp_path, "a_0000.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz", "c_0001.nii.gz", *(f"d_000{i}.nii.gz" for i in range(3)))
    found, bad = find_images(tmp_path, ".nii.gz", 2)
    assert list(found) == ["b"]
    assert bad["a"] == f"case 'a': channel file {tmp_path / 'a_0001.nii.gz'} is missing (2 channels are expected)."
    assert "c_0000.nii.gz is missing" in bad["c"]
    assert "d_0002.nii.gz is one channel too many (2 are expected)" in bad["d"]


def test_folders_without_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere is not a folder"):
        find_images(tmp_path / "nowhere", ".nii.gz", 1)
    touch(tmp_path, "a.nii.gz")
    with pytest.raises(InputError, match=r"holds no image named <case>_0000\.nii\.gz; the pool would be empty"):
        find_images(tmp_path, ".nii.gz", 1)


def test_rgb_images_hold_their_channels_in_one_file(project: Project, tmp_path: Path) -> None:
    """`channel_names` has R, G and B, but the labelled cases have one file each; so has the pool."""
    from skimage import io

    random = np.random.default_rng(0)
    for case in ("a", "b"):
        io.imsave(tmp_path / f"{case}_0000.png", random.integers(1, 255, size=(20, 24, 3), dtype=np.uint8))
    setup = project.setup()
    listed = {"dataset": {"lab": {"images": ["imagesTr/lab_0000.png"], "label": "labelsTr/lab.png"}}}
    content = {**setup.dataset_json, "file_ending": ".png", "channel_names": {"0": "R", "1": "G", "2": "B"}, **listed}
    rgb = NnunetSetup(setup.dataset, setup.plans_name, setup.configuration, setup.plans, content)
    assert (rgb.num_channels, rgb.num_files) == (3, 1)
    found, bad = find_images(tmp_path, ".png", rgb.num_files)
    assert (list(found), bad) == (["a", "b"], {})
    (of_one,) = setup.plans["foreground_intensity_properties_per_channel"].values()
    of_three = {"foreground_intensity_properties_per_channel": {str(channel): of_one for channel in range(3)}}
    check_case(
        "a", list(found["a"]), {**setup.plans, **of_three, "image_reader_writer": "NaturalImage2DIO"}, setup.configuration, [0, 1, 2]
    )


# ---- names over several folders


@pytest.mark.parametrize("is_first", [False, True])
def test_incomplete_case_of_one_folder_does_not_take_the_good_one_of_another_away(
    fresh_project: Project, tmp_path: Path, is_first: bool
) -> None:
    other = touch(tmp_path / "other", "pool_1_0001.nii.gz", "new_0000.nii.gz")
    folders = [other, fresh_project.unlabelled]
    with pytest.raises(InputError, match=r"case 'pool_1' is in two folders \(.*; rename one"):
        collect_images(fresh_project.setup(), folders if is_first else folders[::-1], skip_bad=True)


@pytest.mark.parametrize(
    ("case", "other_case"),
    [("pool_1_seg", "pool_1"), ("POOL_1_Seg", "pool_1"), ("lab_1_seg", "lab_1")],
)
@pytest.mark.parametrize("is_first", [False, True])
def test_cases_that_would_share_a_file(fresh_project: Project, tmp_path: Path, case: str, other_case: str, is_first: bool) -> None:
    """`pool_1_seg.b2nd` is the mask of `pool_1`, and would be the image of `pool_1_seg`."""
    folders = [fresh_project.unlabelled, touch(tmp_path / "other", f"{case}_0000.nii.gz")]
    with pytest.raises(InputError) as raised:
        collect_images(fresh_project.setup(), folders[::-1] if is_first else folders, skip_bad=True)
    image = fresh_project.unlabelled / f"{other_case}_0000.nii.gz"
    origin = image if other_case in POOL else f"a labelled case of {DATASET}"
    assert str(raised.value) == (
        f"the image of case '{case}' ({folders[1] / f'{case}_0000.nii.gz'}) is preprocessed under the name of the mask of case "
        f"'{other_case}' ({origin}); rename an image in the pool's folder."
    )


def test_mask_of_a_pool_case_has_no_name_of_a_labelled_case(fresh_project: Project, tmp_path: Path) -> None:
    setup = fresh_project.setup()
    setup.labelled_cases["pat_seg"] = setup.labelled_cases["lab_1"]
    with pytest.raises(InputError, match=rf"image of case 'pat_seg' \(a labelled case of {DATASET}\) .* mask of case 'pat' \(/"):
        collect_images(setup, [touch(tmp_path / "other", "pat_0000.nii.gz")], skip_bad=True)


def test_names_that_only_look_like_masks(fresh_project: Project, tmp_path: Path) -> None:
    folders = [touch(tmp_path / "a", "pat_0000.nii.gz", "lone_seg_0000.nii.gz"), touch(tmp_path / "b", "pat_segment_0000.nii.gz")]
    assert list(collect_images(fresh_project.setup(), folders, skip_bad=False)[0]) == ["lone_seg", "pat", "pat_segment"]
