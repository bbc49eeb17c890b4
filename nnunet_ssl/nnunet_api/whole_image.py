"""Images are written whole, or it is an error: SimpleITK leaves a part of a file on a full disk, and reads it back, without a word."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.disk import flush_to_disk, not_whole


@contextmanager
def written_whole(path: Path, read: Callable[[str], object] = sitk.ReadImage) -> Iterator[None]:
    """See that the block writes all of an image.

    Args:
        path: the image.
        read: reads files that are not NIfTI, every byte of them.

    Raises:
        OSError: with the file's name, if the file system has no room for it.
        StateError: if the file is not whole for another reason.
    """
    try:
        yield
        flush_to_disk(path)
    except RuntimeError as error:  # SimpleITK's, for files that are not NIfTI
        raise not_whole(path, _last_line(error)) from error
    try:
        _read_again(path, read)
    except Exception as error:  # readers raise whatever their library raises
        raise not_whole(path, _last_line(error)) from error


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__


def _read_again(path: Path, read: Callable[[str], object]) -> None:
    """Read every byte of an image.

    Raises:
        Exception: one of several, if a part is missing.
    """
    if path.name.endswith((".nii", ".nii.gz")):
        import nibabel  # nnU-Net's own dependency

        np.asanyarray(nibabel.load(path).dataobj)  # type: ignore[attr-defined]
    else:
        read(str(path))
