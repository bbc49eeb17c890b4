"""The arrays of a case that nnU-Net has preprocessed: its own format, without what its loader does besides (it runs code in a `.pkl`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnunet_ssl.errors import StateError
from nnunet_ssl.nnunet_api.array_file import open_array


def open_image(folder: Path, case: str) -> Any:
    """(channels, X, Y, Z) float32, read where it is indexed.

    Raises:
        StateError: if the file is missing, damaged or no array.
    """
    return _open(folder / f"{case}.b2nd", case)


def open_segmentation(folder: Path, case: str) -> Any:
    """(1, X, Y, Z), negative outside nnU-Net's nonzero mask, read where it is indexed.

    Raises:
        StateError: if the file is missing, damaged or no array.
    """
    return _open(folder / f"{case}_seg.b2nd", case)


def _open(path: Path, case: str) -> Any:
    if not path.is_file():
        raise StateError(f"{path}, preprocessed for case '{case}', is missing; preprocess the case again.")
    try:
        return open_array(path, is_mapped=True)
    except (RuntimeError, OSError, ValueError) as error:
        raise StateError(f"{path}, preprocessed for case '{case}', cannot be read ({error}); preprocess the case again.") from error
