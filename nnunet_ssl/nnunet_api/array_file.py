"""blosc2 files, nnU-Net's and ours, opened as arrays and as nothing else."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params

_ACTIVE: Any = getattr(blosc2, "UnsafeDeserializationError", ())
"""Raised by versions that do not evaluate what they open."""


def open_array(path: Path, *, is_mapped: bool = False) -> Any:
    """Open an array without reading its values.

    blosc2 can keep expressions, functions and references to other files in an array's place. It does not evaluate them unless asked to
    (since its version 4.14.1); here they are refused.

    Args:
        path: the file.
        is_mapped: map it into memory, as nnU-Net does, which is faster for crops.

    Returns:
        A `blosc2.NDArray`.

    Raises:
        ValueError: if the file holds something else.
        RuntimeError, OSError: if it is damaged or missing.
    """
    # mapping is unreliable on Windows
    mapping = {"mmap_mode": "r"} if is_mapped and os.name != "nt" else {}
    try:
        found = blosc2.open(str(path), mode="r", dparams={"nthreads": 1}, **mapping)
    except _ACTIVE as error:
        raise ValueError("it holds an expression, a function or a reference, not an array") from error
    if not isinstance(found, blosc2.NDArray):
        raise ValueError(f"it holds a {type(found).__name__}, not an array")
    return found


def blocks_and_chunks(shape: Sequence[int], patch_size: Sequence[int], itemsize: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the parts in which nnU-Net compresses an array of preprocessed data, so that its loaders read few of them per patch.

    Args:
        shape: (channels, X, Y, Z) of the array.
        patch_size: of the configuration.
        itemsize: bytes per value.
    """
    blocks, chunks = comp_blosc2_params(tuple(shape), tuple(patch_size), itemsize)
    return tuple(blocks), tuple(chunks)


def fingerprint_of_values(path: Path) -> str:
    """Twelve hexadecimal digits of an array's values, whatever the file looks like in which they are compressed.

    Raises:
        ValueError, RuntimeError, OSError: as `open_array`.
    """
    stat = path.stat()
    return _fingerprint(path, stat.st_size, stat.st_mtime_ns)


@functools.cache
def _fingerprint(path: Path, size: int, mtime_ns: int) -> str:
    values = np.ascontiguousarray(open_array(path)[:])
    digest = hashlib.sha256(f"{values.dtype} {values.shape} ".encode())
    digest.update(values.data)
    return digest.hexdigest()[:12]
