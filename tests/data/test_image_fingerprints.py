"""Fingerprints of images: an image is read for one once, again when it has changed, and by whoever cannot remember."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest

from nnunet_ssl.data import image_fingerprints
from nnunet_ssl.data.image_fingerprints import ImageFingerprints
from nnunet_ssl.nnunet_api.array_file import fingerprint_of_values


def write(folder: Path, value: float, *, mtime_ns: int | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "case.b2nd"
    path.unlink(missing_ok=True)
    blosc2.asarray(np.full((1, 2, 3, 4), value, np.float32), urlpath=str(path), mode="w", cparams={"clevel": 0})
    if mtime_ns is not None:
        os.utime(path, ns=(mtime_ns, mtime_ns))
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every image that is read, as if each look were another process's."""
    found: list[Path] = []

    def read(path: Path) -> str:
        found.append(path)
        return fingerprint_of_values(path)

    monkeypatch.setattr(image_fingerprints, "fingerprint_of_values", read)
    return found


def test_image_is_read_once(tmp_path: Path, reads: list[Path]) -> None:
    path = write(tmp_path / "images", 1)
    first = ImageFingerprints(path.parent).of("case")
    assert [ImageFingerprints(path.parent).of("case") for _ in range(3)] == [first] * 3
    assert first == fingerprint_of_values(path)
    assert reads == [path]
    assert [f.name for f in path.parent.iterdir()] == ["case.b2nd"]  # nothing but data lies among the images
    assert [f.relative_to(tmp_path).as_posix() for f in tmp_path.glob("*/*.json")] == ["images__nnssl_fingerprints/case.json"]


def test_image_that_has_changed_is_read_again(tmp_path: Path, reads: list[Path]) -> None:
    path = write(tmp_path / "images", 1, mtime_ns=10**18)
    of = ImageFingerprints(path.parent).of
    first, size = of("case"), path.stat().st_size
    write(path.parent, 1, mtime_ns=10**18 + 1)
    assert of("case") == first
    write(path.parent, 2, mtime_ns=10**18 + 2)
    assert path.stat().st_size == size  # the time alone tells
    assert of("case") != first
    assert len(reads) == 3


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"stamp": [1, 2]}'])
def test_damaged_memory_is_none(tmp_path: Path, reads: list[Path], content: str) -> None:
    path = write(tmp_path / "images", 1)
    prints = ImageFingerprints(path.parent)
    first = prints.of("case")
    (prints.folder / "case.json").write_text(content)
    assert prints.may_be("case", "any")
    assert prints.of("case") == first
    assert len(reads) == 2
    assert not prints.may_be("case", "any")


def test_folder_that_cannot_be_written_to(tmp_path: Path, reads: list[Path]) -> None:
    path = write(tmp_path / "images", 1)
    prints = ImageFingerprints(path.parent)
    prints.folder.touch()  # a file stands where the folder would be
    assert [prints.of("case"), prints.of("case")] == [fingerprint_of_values(path)] * 2
    assert len(reads) == 2


def test_image_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ImageFingerprints(tmp_path / "images").of("case")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda path: None, {"own": True, "other": False}),
        (lambda path: write(path.parent, 2), {"own": False, "other": False}),
        (lambda path: (path.parent.parent / "images__nnssl_fingerprints" / "case.json").unlink(), {"own": True, "other": True}),
    ],
)
def test_what_can_be_told_without_reading(
    tmp_path: Path, reads: list[Path], change: Callable[[Path], Any], expected: dict[str, bool]
) -> None:
    path = write(tmp_path / "images", 1, mtime_ns=10**18)
    prints = ImageFingerprints(path.parent)
    own = prints.of("case")
    change(path)
    assert {"own": prints.may_be("case", own), "other": prints.may_be("case", "other")} == expected
    assert not prints.may_be("case", None)
    assert len(reads) == 1
