"""What an image file says of itself, compared with the file, before anything is loaded.

Readers believe headers: SimpleITK fills a file that was cut off with zeros, takes a spacing of 0 or NaN for 1 mm and a negative size for
1 voxel, and sets memory aside for any size that a few bytes claim.
"""

from __future__ import annotations

import contextlib
import gzip
import os
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel
import numpy as np
import SimpleITK as sitk

_NIFTI, _ITK = (".nii", ".nii.gz"), (".nrrd", ".mha", ".mhd", ".gipl")
_NIFTI_2_LENGTH = 540
_BLOCK = 1 << 20


def check_image_file(path: str) -> None:
    """See that a file is there, whole, and of a size and spacing that can be. Nothing of it is kept in memory.

    Args:
        path: an image or a label. Of other types than NIfTI, NRRD and MetaImage nothing is looked at but whether it is a file.

    Raises:
        ValueError: with what is wrong, as a clause.
        OSError, EOFError, zlib.error: if it cannot be read or unpacked to its end.
    """
    if not os.path.isfile(path):
        raise ValueError("a link that leads nowhere" if os.path.islink(path) else "no such file")
    if path.endswith(_NIFTI):
        _check_nifti(path)
    elif path.endswith(_ITK):
        with quiet_itk():
            reader = sitk.ImageFileReader()
            reader.SetFileName(path)
            reader.ReadImageInformation()
        _check_grid(reader.GetSize(), reader.GetSpacing())


def fits_memory(sizes: Sequence[int], channels: int = 1) -> bool:
    """Whether the machine has room for an image of float32."""
    return 4 * channels * prod(map(int, sizes)) <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def quiet_itk() -> Iterator[None]:
    """Keep ITK's own warnings off the console; what matters of them is an error as well."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def _check_nifti(path: str) -> None:
    with _opened(path) as file:
        block = file.read(_NIFTI_2_LENGTH)
        header = _nifti_header(block)
        num_dims = int(header["dim"][0])
        if not 1 <= num_dims <= 7:
            raise ValueError(f"its header speaks of {num_dims} dimensions")
        sizes = [int(size) for size in header["dim"][1 : num_dims + 1]]
        _check_grid(sizes, [float(size) for size in header["pixdim"][1 : min(num_dims, 3) + 1]])
        dtype = header.get_data_dtype()
        if dtype.kind not in "iuf":
            raise ValueError("its voxels are complex numbers or colours")
        affine = header.get_best_affine()
        if not np.isfinite(affine).all() or np.linalg.det(affine[:3, :3]) == 0:
            raise ValueError("its header gives no direction in space")
        _check_length(file, len(block), sizes, dtype.itemsize, float(header["vox_offset"]))


def _check_length(file: BinaryIO, begun: int, sizes: Sequence[int], voxel_bytes: int, offset: float) -> None:
    """Compare what follows with what the header claims; to the end of the file, where gzip keeps its check sum."""
    found = begun + sum(len(block) for block in iter(lambda: file.read(_BLOCK), b""))
    if not 0 <= offset <= found:
        raise ValueError(f"its header says that voxels begin at byte {offset:g} of {found}")
    claimed, there = prod(sizes) * voxel_bytes, found - int(offset)
    if claimed > there:
        raise ValueError(f"its header speaks of {claimed} bytes of voxels, there are {there}")
    if there - claimed >= sizes[0] * voxel_bytes:
        raise ValueError(f"its header speaks of {claimed} bytes of voxels, but there are {there}")


def _nifti_header(block: bytes) -> Any:
    """The header as it stands in the file: nibabel's own reading mends it."""
    kinds: tuple[Any, ...] = (nibabel.Nifti1Header, nibabel.Nifti2Header)
    for kind in kinds:
        length = kind.sizeof_hdr
        if len(block) >= length and length in (int.from_bytes(block[:4], "little"), int.from_bytes(block[:4], "big")):
            return kind(block[:length], check=False)
    raise ValueError("it is no NIfTI file, or was cut off in its header")


def _check_grid(sizes: Sequence[int], spacing_mm: Sequence[float]) -> None:
    if min(sizes) < 1:
        raise ValueError(f"its header claims a size of {' x '.join(map(str, sizes))} voxels")
    if not all(np.isfinite(size) and size > 0 for size in spacing_mm):
        raise ValueError(f"its header claims a spacing of {' x '.join(f'{size:g}' for size in spacing_mm)} mm")
    while len(sizes) > 1 and sizes[-1] == 1:
        sizes = sizes[:-1]
    if len(sizes) > 4:
        raise ValueError(f"it has {len(sizes)} dimensions")
    if not fits_memory(sizes):
        raise ValueError(f"its header claims {' x '.join(map(str, sizes))} voxels, more than this machine has memory for")


def _opened(path: str) -> contextlib.AbstractContextManager[BinaryIO]:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.endswith(".gz") else Path(path).open("rb")
