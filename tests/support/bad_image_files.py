"""Image files that are broken in one way each, made from good ones."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

DIM, DATATYPE, PIXDIM, QFORM_CODE, SROW = 40, 70, 76, 252, 280
"""Where fields of a NIfTI-1 header begin."""


def unpacked(path: Path, change: Callable[[bytearray], bytes | bytearray | None]) -> Path:
    """Change what is inside a .nii.gz; `change` works in place, or returns other bytes."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    changed = change(content)
    path.write_bytes(gzip.compress(bytes(content if changed is None else changed), 1))
    return path


def packed(path: Path, change: Callable[[bytearray], bytes | bytearray | None]) -> Path:
    """Change the bytes of a file as they are, without unpacking them."""
    content = bytearray(path.read_bytes())
    changed = change(content)
    path.write_bytes(bytes(content if changed is None else changed))
    return path


def header(path: Path, offset: int, form: str, *values: float) -> Path:
    """Put other values into a NIfTI-1 header."""
    return unpacked(path, lambda content: struct.pack_into(f"<{form}", content, offset, *values))


def flipped(content: bytearray, place: int) -> None:
    """Turn one bit over."""
    content[place] ^= 0x10


def voxels(path: Path, change: Callable[[Any], Any]) -> Path:
    """Write other voxels in the geometry of an image; `change` gets (z, y, x), or gives an array of another kind or shape."""
    image = sitk.ReadImage(str(path))
    array = change(sitk.GetArrayFromImage(image))
    made = sitk.GetImageFromArray(array)
    if array.ndim == 3:
        made.CopyInformation(image)
    sitk.WriteImage(made, str(path))
    return path


def nifti_2(path: Path, *sizes: int) -> Path:
    """A NIfTI-2 header that claims sizes of 64 bits, and no voxels behind it."""
    content = bytearray(544)
    struct.pack_into("<i8shh", content, 0, 540, b"n+2\0\r\n\x1a\n", 16, 32)
    struct.pack_into("<8q", content, 16, len(sizes), *sizes, *[1] * (7 - len(sizes)))
    struct.pack_into("<8d", content, 104, *[1.0] * 8)
    struct.pack_into("<q", content, 168, 544)
    path.write_bytes(gzip.compress(bytes(content)))
    return path


def nrrd(path: Path, *, sizes: str, data: str = "", content: bytes = b"") -> Path:
    """An uncompressed NRRD of floats; `data` names a file beside it."""
    lines = [
        "NRRD0004",
        "type: float",
        "dimension: 3",
        f"sizes: {sizes}",
        "encoding: raw",
        "endian: little",
        "space: left-posterior-superior",
    ]
    lines += ["space directions: (1,0,0) (0,1,0) (0,0,1)", "space origin: (0,0,0)", *([f"data file: {data}"] if data else [])]
    path.write_bytes("\n".join(lines).encode() + b"\n\n" + content)
    return path


def photograph(path: Path) -> Path:
    """A good PNG under any name."""
    made = path.with_name("photograph.png")
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(64, dtype=np.uint8).reshape(8, 8)), str(made))
    os.replace(made, path)
    return path
