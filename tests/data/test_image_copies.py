"""Labelled images that come back in the pool under another name."""

from __future__ import annotations

import gzip
import re
import shutil
from pathlib import Path

import pytest
from tiny_setup import DATASET, POOL, Project

from nnunet_ssl.data import image_copies
from nnunet_ssl.data.image_copies import copies_of
from nnunet_ssl.data.pool import pool_is_current
from nnunet_ssl.errors import InputError

SIZE = 200_000


def written(folder: Path, name: str, content: bytes) -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return str(folder / name)


def content(*changed: int) -> bytes:
    """Bytes of one size, of which some are changed."""
    made = bytearray(SIZE)
    for place in changed:
        made[place] = 1
    return bytes(made)


@pytest.mark.parametrize("place", [0, SIZE // 2, SIZE - 1])
def test_one_other_byte_makes_another_image(tmp_path: Path, place: int) -> None:
    original = {"a": (written(tmp_path, "a", content()),), "b": (written(tmp_path, "b", content(place)),)}
    assert copies_of({"x": (written(tmp_path, "x", content()),)}, original) == {"x": "a"}
    assert copies_of({"x": (written(tmp_path, "x", content(place)),)}, original) == {"x": "b"}
    assert copies_of({"x": (written(tmp_path, "x", content(7)),)}, original) == {}


def test_every_channel_counts(tmp_path: Path) -> None:
    """A missing channel that was filled with the same zeros everywhere makes no copies."""
    zeros = content()
    original = {"a": (written(tmp_path, "a0", content(1)), written(tmp_path, "a1", zeros))}
    other = written(tmp_path, "x0", content(2)), written(tmp_path, "x1", zeros)
    same = written(tmp_path, "y0", content(1)), written(tmp_path, "y1", zeros)
    assert copies_of({"x": other, "y": same, "swapped": same[::-1]}, original) == {"y": "a"}


def test_links_are_copies_and_lost_files_are_none(tmp_path: Path) -> None:
    file = written(tmp_path, "a", content(3))
    (tmp_path / "link").symlink_to(file)
    (tmp_path / "lost").symlink_to(tmp_path / "gone")
    assert copies_of({"x": (str(tmp_path / "link"),), "y": (str(tmp_path / "lost"),)}, {"a": (file,)}) == {"x": "a"}
    assert copies_of({"x": (file,)}, {"a": (str(tmp_path / "lost"),)}) == {}


def test_files_of_other_sizes_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    sample = image_copies._sample
    monkeypatch.setattr(image_copies, "_sample", lambda file: read.append(file.name) or sample(file))
    original = {"a": (written(tmp_path, "a", content()),), "b": (written(tmp_path, "b", content()[:-1]),)}
    images = {name: (written(tmp_path, name, content(number)[:-1]),) for number, name in enumerate("xyz")}
    assert copies_of(images, original) == {}
    assert sorted(read) == ["b", "x", "y", "z"]


def test_copy_of_a_labelled_image_is_no_case_of_the_pool(fresh_project: Project) -> None:
    """By its name alone it is another case; a held-out one would help to train the student that is judged on it."""
    copied = fresh_project.unlabelled / "follow_up_0000.nii.gz"
    shutil.copy(fresh_project.raw / DATASET / "imagesTr" / "lab_2_0000.nii.gz", copied)
    said = f"case 'follow_up': {copied} is a copy of the image of labelled case 'lab_2' of {DATASET}."
    with pytest.raises(InputError, match=re.escape(f"{said} Remove it, or leave bad cases out with --skip-bad.")):
        fresh_project.prepare_pool()
    pool = fresh_project.prepare_pool(skip_bad=True)
    assert pool.case_ids == POOL
    assert pool.skipped == {"follow_up": said}
    assert pool_is_current(fresh_project.setup(), [fresh_project.unlabelled])
    copied.write_bytes(gzip.compress(gzip.decompress(copied.read_bytes()), compresslevel=1))  # another file: this the page says
    assert "follow_up" in fresh_project.prepare_pool().case_ids
