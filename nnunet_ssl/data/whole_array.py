"""Arrays in blosc2's format, compressed in memory and written by Python.

blosc2's own writer says on a full disk that the array could not be created, not why, leaves a part of the file and keeps it open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.disk import flush_to_disk, naming

ENTRY = "nnssl"
"""Where our metadata stand in a file."""


def array_bytes(
    values: NDArray[Any],
    *,
    compression: Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
    chunks: Sequence[int] | None = None,
    blocks: Sequence[int] | None = None,
) -> bytes:
    """The file of an array, which `blosc2.open` and nnU-Net can read.

    Args:
        values: of any shape.
        compression: blosc2's `cparams`.
        metadata: kept in the file under `nnssl`.
        chunks: shape of the parts that are compressed on their own; None leaves it to blosc2.
        blocks: shape of the parts of a chunk.
    """
    shapes = {name: tuple(shape) for name, shape in (("chunks", chunks), ("blocks", blocks)) if shape is not None}
    array = blosc2.asarray(np.ascontiguousarray(values), cparams=dict(compression), contiguous=True, **shapes)
    if metadata is not None:
        array.schunk.vlmeta[ENTRY] = dict(metadata)
    return bytes(array.to_cframe())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk.

    Raises:
        OSError: with the file's name, if the file system has no room for it.
    """
    with naming(path):
        path.write_bytes(content)
    flush_to_disk(path)
