"""What errors of a file system mean, and files that are not whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.cli.command import run_command
from nnunet_ssl.data.files import replacing
from nnunet_ssl.data.whole_array import write_bytes
from nnunet_ssl.disk import existing, file_system, free_bytes, meaning, megabytes, not_whole, require_room
from nnunet_ssl.errors import StateError
from nnunet_ssl.nnunet_api.whole_image import written_whole


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "could not be written: no space is left on the file system"),
        (errno.EDQUOT, "could not be written: your quota is used up on the file system"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
        (errno.ENAMETOOLONG, "the name is too long"),
        (errno.EFBIG, "the limit of this process"),
        (errno.ELOOP, "circle"),
        (errno.EIO, "input/output error"),
        (errno.ENOLCK, "the file system gives no locks"),
        (errno.ENOSYS, "does not support this (locks, for instance)"),
    ],
)
def test_errors_of_the_file_system_are_one_line(number: int, words: str, tmp_path: Path, capsys: Any) -> None:
    def body() -> None:
        raise OSError(number, os.strerror(number), str(tmp_path / "a" / "b.json"))

    assert run_command("nnssl_x", body) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"nnssl_x: error: {tmp_path / 'a' / 'b.json'}")
    assert words in err
    assert err.count("\n") == 1


def test_other_errors_are_defects_and_keep_their_traceback() -> None:
    def body() -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/x")

    with pytest.raises(FileNotFoundError):
        run_command("nnssl_x", body)
    assert meaning(OSError(errno.EACCES, "without a name")) is None
    assert "no space is left on its file system" in str(meaning(OSError(errno.ENOSPC, "without a name")))


def test_the_message_names_the_file_and_not_the_temporary_one(tmp_path: Path) -> None:
    """A file object's own errors name nothing at all."""
    with pytest.raises(OSError, match="No space left") as raised, replacing(tmp_path / "b.json"), Path("/dev/full").open("w") as full:
        full.write("x" * 100_000)
    assert raised.value.filename == str(tmp_path / "b.json")
    assert list(tmp_path.iterdir()) == []


def test_a_real_name_that_is_too_long(tmp_path: Path, capsys: Any) -> None:
    def body() -> None:
        with replacing(tmp_path / ("x" * 250)) as temporary:
            temporary.write_text("")

    assert run_command("nnssl_x", body) == 2
    assert "the name is too long for the file system" in capsys.readouterr().err


def test_where_a_path_would_lie(tmp_path: Path) -> None:
    assert existing(tmp_path / "a" / "b") == tmp_path
    assert file_system(tmp_path / "a").is_mount()
    assert free_bytes(tmp_path / "a" / "b") > 0
    assert [megabytes(n) for n in (0, 1.24e6, 9.96e6, 1234e6)] == ["0.0 MB", "1.2 MB", "10.0 MB", "1234 MB"]


def test_room_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_room(tmp_path / "a", 1000)
    assert list(tmp_path.iterdir()) == []

    def full(handle: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    error = not_whole(tmp_path / "a", "half a file")
    assert isinstance(error, OSError)
    assert (error.errno, error.filename) == (errno.ENOSPC, str(tmp_path / "a"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd"])
def test_an_image_that_was_written_in_part_is_an_error(tmp_path: Path, ending: str) -> None:
    """On a full disk SimpleITK leaves such files without a word."""
    path = tmp_path / f"a{ending}"
    values = np.random.default_rng(0).random((9, 10, 11)).astype(np.float32)

    def write(share: float) -> None:
        with written_whole(path):
            sitk.WriteImage(sitk.GetImageFromArray(values), str(path), useCompression=True)
            os.truncate(path, int(path.stat().st_size * share))

    write(1)
    for share in (0, 0.3, 0.9):
        with pytest.raises(StateError, match=r"could not be written in full \(.+\); look at the disk"):
            write(share)


def test_an_array_is_written_by_python(tmp_path: Path) -> None:
    """So that the error of the file system comes through."""
    with pytest.raises(OSError, match="No space left") as raised:
        write_bytes(Path("/dev/full"), bytes(9))
    assert raised.value.errno == errno.ENOSPC
