"""What is remembered of image files, so that a replaced one is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_ssl.data.image_files import file_stamp


@pytest.mark.parametrize("ending", [".tif", ".tiff", ".TIF"])
def test_spacing_of_a_tiff_image_is_part_of_it(tmp_path: Path, ending: str) -> None:
    """nnU-Net's reader takes it from `<case>.json`."""
    image = tmp_path / f"case_0000{ending}"
    image.write_bytes(b"x")
    before = file_stamp([str(image)])
    (tmp_path / "case.json").write_text('{"spacing": [3, 1, 1]}')
    after = file_stamp([str(image)])
    assert (len(before), len(after)) == (1, 2)
    (tmp_path / "case.json").write_text('{"spacing": [3, 1, 1.5]}')
    assert file_stamp([str(image)]) != after


def test_other_images_are_themselves_alone(tmp_path: Path) -> None:
    (tmp_path / "case.json").write_text("{}")
    for name in ("case_0000.nii.gz", "case_0000.png"):
        (tmp_path / name).write_bytes(b"x")
        assert len(file_stamp([str(tmp_path / name)])) == 1
