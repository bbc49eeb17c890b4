"""Bad images and bad names of images, as a pool or a folder to predict may have them."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bad_image_files as files
import numpy as np
from bad_image_files import DATATYPE, DIM, PIXDIM, QFORM_CODE, SROW, header, packed, unpacked, voxels
from bad_input import BadInput
from tiny_setup import DATASET, Project, phantom, write_image

from nnunet_ssl.data.case_names import shown

NAN, INF = float("nan"), float("inf")


def image(change: Callable[[Path], object]) -> Callable[[Project], Path]:
    """Break the image of one case of the pool."""

    def make(project: Project) -> Path:
        path = project.unlabelled / "pool_3_0000.nii.gz"
        change(path)
        return path

    return make


def named(*names: str | bytes) -> Callable[[Project], str]:
    """Add good images under names; the last is the bad one."""

    def make(project: Project) -> str:
        for name in names:
            path = os.path.join(os.fsencode(project.unlabelled), os.fsencode(name))
            shutil.copyfile(project.unlabelled / "pool_4_0000.nii.gz", path)
        return shown(os.fsdecode(names[-1]).removesuffix("_0000.nii.gz"))

    return make


def replaced(make_instead: Callable[[Path], object]) -> Callable[[Project], Path]:
    """Something else where an image should be."""

    def change(path: Path) -> None:
        path.unlink()
        make_instead(path)

    return image(change)


def second_channel(change: Callable[[Path], object] | None) -> Callable[[Project], Path]:
    """A set-up of two channels with one case in the pool, whose second channel is changed; without a change it is missing."""

    def make(project: Project) -> Path:
        def two(plans: dict[str, Any], configuration: dict[str, Any]) -> None:
            channels = plans["foreground_intensity_properties_per_channel"]
            channels["1"] = channels["0"]
            for key in ("normalization_schemes", "use_mask_for_norm"):
                configuration[key] = configuration[key] * 2

        project.change_plans(two)
        for folder in (project.raw / DATASET, project.preprocessed / DATASET):
            content = json.loads((folder / "dataset.json").read_text())
            (folder / "dataset.json").write_text(json.dumps({**content, "channel_names": {"0": "T1", "1": "T2"}}))
        for path in (project.raw / DATASET / "imagesTr").iterdir():
            shutil.copyfile(path, path.with_name(path.name.replace("_0000", "_0001")))
        for path in project.unlabelled.iterdir():
            if path.name != "pool_3_0000.nii.gz":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        second = project.unlabelled / "pool_3_0001.nii.gz"
        if change is not None:
            shutil.copyfile(project.unlabelled / "pool_3_0000.nii.gz", second)
            change(second)
        return second

    return make


def other_format(ending: str, reader: str, change: Callable[[Path], object]) -> Callable[[Project], Path]:
    """A set-up of another file type with one case in the pool."""

    def make(project: Project) -> Path:
        project.change_plans(lambda plans, _: plans.update(image_reader_writer=reader))
        for folder in (project.raw / DATASET, project.preprocessed / DATASET):
            content = json.loads((folder / "dataset.json").read_text())
            (folder / "dataset.json").write_text(json.dumps({**content, "file_ending": ending}))
        for path in (project.raw / DATASET).rglob("*.nii.gz"):
            path.rename(path.with_name(path.name.replace(".nii.gz", ending)))
        path = project.unlabelled / f"pool_3_0000{ending}"
        change(path)
        return path

    return make


def integer_label(path: Path) -> None:
    write_image(phantom("pool_3")[1].astype(np.int16), path)


FILES = [
    BadInput(what="an empty file", make=image(lambda p: p.write_bytes(b"")), says="cannot be read", is_skipped=True),
    BadInput(
        what="text under the name of an image", make=image(lambda p: p.write_text("no image")), says="cannot be read", is_skipped=True
    ),
    BadInput(what="a PNG named .nii.gz", make=image(files.photograph), says="cannot be read", is_skipped=True),
    BadInput(
        what="an unpacked NIfTI named .nii.gz",
        make=image(lambda p: p.write_bytes(gzip.decompress(p.read_bytes()))),
        says="cannot be read",
        is_skipped=True,
    ),
    BadInput(
        what="a gzip file that was cut off",
        make=image(lambda p: packed(p, lambda c: c[: len(c) // 2])),
        says="cannot be read",
        is_skipped=True,
    ),
    BadInput(
        what="a gzip file with a wrong check sum",
        make=image(lambda p: packed(p, lambda c: files.flipped(c, -7))),
        says="cannot be read",
        is_skipped=True,
    ),
    BadInput(
        what="a gzip file with a flipped bit",
        make=image(lambda p: packed(p, lambda c: files.flipped(c, len(c) // 2))),
        says="cannot be read",
        is_skipped=True,
    ),
    BadInput(
        what="a NIfTI that was cut off before it was packed",
        make=image(lambda p: unpacked(p, lambda c: c[: len(c) // 2])),
        says="cannot be read",
        is_skipped=True,
    ),
    BadInput(
        what="a NIfTI header without voxels", make=image(lambda p: unpacked(p, lambda c: c[:352])), says="cannot be read", is_skipped=True
    ),
    BadInput(
        what="a NIfTI header that was cut off", make=image(lambda p: unpacked(p, lambda c: c[:100])), says="cannot be read", is_skipped=True
    ),
    BadInput(
        what="a header with more slices than there are",
        make=image(lambda p: header(p, DIM, "4h", 3, 20, 22, 21)),
        says="cannot be read",
        is_skipped=True,
    ),
    BadInput(
        what="a header with fewer slices than there are",
        make=image(lambda p: header(p, DIM, "4h", 3, 20, 22, 17)),
        says="cannot be read",
        is_skipped=True,
    ),
    BadInput(what="a header with no dimension", make=image(lambda p: header(p, DIM, "h", 0)), says="cannot be read", is_skipped=True),
    BadInput(what="a header with nine dimensions", make=image(lambda p: header(p, DIM, "h", 9)), says="cannot be read", is_skipped=True),
    BadInput(
        what="a header with a negative size",
        make=image(lambda p: header(p, DIM, "4h", 3, 20, -22, 18)),
        says="cannot be read",
        is_skipped=True,
    ),
    BadInput(
        what="a header with a size of zero",
        make=image(lambda p: header(p, DIM, "4h", 3, 20, 0, 18)),
        says="cannot be read",
        is_skipped=True,
    ),
    BadInput(
        what="a small file that claims 30000 voxels a side",
        make=image(lambda p: header(p, DIM, "4h", 3, 30000, 30000, 30000)),
        says="cannot be read",
        is_skipped=True,
    ),
    BadInput(
        what="sizes whose product overflows 64 bits (NIfTI-1)",
        make=image(lambda p: header(p, DIM, "8h", 7, *[32767] * 7)),
        says="cannot be read",
        is_skipped=True,
    ),
    BadInput(
        what="sizes whose product overflows 64 bits (NIfTI-2)",
        make=image(lambda p: files.nifti_2(p, 2**40, 2**40, 2**40)),
        says="cannot be read",
        is_skipped=True,
    ),
    BadInput(
        what="an unknown data type in the header",
        make=image(lambda p: header(p, DATATYPE, "h", 9999)),
        says="cannot be read",
        is_skipped=True,
    ),
    BadInput(what="complex numbers", make=image(lambda p: header(p, DATATYPE, "2h", 32, 64)), says="cannot be read", is_skipped=True),
    BadInput(
        what="a 4D file where 3D is expected",
        make=image(lambda p: header(p, DIM, "5h", 4, 20, 22, 6, 3)),
        says="channels where labelled cases have",
        is_skipped=True,
    ),
    BadInput(what="a 5D file", make=image(lambda p: header(p, DIM, "6h", 5, 20, 22, 2, 3, 3)), says="cannot be read", is_skipped=True),
    BadInput(what="a spacing of 0", make=image(lambda p: header(p, PIXDIM + 4, "f", 0.0)), says="spacing", is_skipped=True),
    BadInput(what="a spacing of NaN", make=image(lambda p: header(p, PIXDIM + 4, "f", NAN)), says="spacing", is_skipped=True),
    BadInput(what="a negative spacing", make=image(lambda p: header(p, PIXDIM + 4, "f", -1.0)), says="spacing", is_skipped=True),
    BadInput(what="an infinite spacing", make=image(lambda p: header(p, PIXDIM + 4, "f", INF)), says="spacing", is_skipped=True),
    BadInput(
        what="a spacing in other units, which would need terabytes of memory",
        make=image(lambda p: header(p, PIXDIM + 4, "3f", *[1e6] * 3)),
        says="memory",
        is_skipped=True,
    ),
    BadInput(
        what="a direction that is not orthonormal",
        make=image(lambda p: (header(p, QFORM_CODE, "2h", 0, 1), header(p, SROW, "12f", -1, 0.5, 0, 5, 0, -1, 0, 3, 0, 0, 1, 12))),
        says="cannot be read",
        is_skipped=True,
    ),
    BadInput(
        what="NaN in the direction",
        make=image(lambda p: (header(p, QFORM_CODE, "2h", 0, 1), header(p, SROW, "12f", NAN, 0, 0, 5, 0, -1, 0, 3, 0, 0, 1, 12))),
        says="cannot be read",
        is_skipped=True,
    ),
    BadInput(
        what="a direction of zeros",
        make=image(lambda p: (header(p, QFORM_CODE, "2h", 0, 1), header(p, SROW, "12f", *[0] * 12))),
        says="cannot be read",
        is_skipped=True,
    ),
    BadInput(
        what="a voxel that is NaN",
        make=image(lambda p: voxels(p, lambda a: np.where(np.arange(a.size).reshape(a.shape) == 9, np.float32(NAN), a))),
        says="has 1 NaN or infinite voxels",
        is_skipped=True,
    ),
    BadInput(
        what="a voxel that is infinite",
        make=image(lambda p: voxels(p, lambda a: np.where(np.arange(a.size).reshape(a.shape) == 9, np.float32(INF), a))),
        says="has 1 NaN or infinite voxels",
        is_skipped=True,
    ),
    BadInput(what="an image of zeros", make=image(lambda p: voxels(p, np.zeros_like)), says="every voxel of", is_skipped=True),
    BadInput(what="a label under the name of an image", make=image(integer_label), says="label", is_skipped=True),
    BadInput(
        what="a NRRD whose detached data file is missing",
        make=other_format(".nrrd", "SimpleITKIO", lambda p: files.nrrd(p, sizes="4 4 4", data="gone.raw")),
        says="cannot be read",
        is_skipped=True,
    ),
    BadInput(
        what="a NRRD that claims 30000 voxels a side",
        make=other_format(".nrrd", "SimpleITKIO", lambda p: files.nrrd(p, sizes="30000 30000 30000", content=b"1234")),
        says="cannot be read",
        is_skipped=True,
    ),
    BadInput(
        what="a NRRD that was cut off",
        make=other_format(".nrrd", "SimpleITKIO", lambda p: files.nrrd(p, sizes="8 8 8", content=bytes(100))),
        says="cannot be read",
        is_skipped=True,
    ),
    BadInput(
        what="a PNG that was cut off",
        make=other_format(".png", "NaturalImage2DIO", lambda p: packed(files.photograph(p), lambda c: c[:60])),
        says="cannot be read",
        is_skipped=True,
    ),
    BadInput(
        what="a link to a file that is gone", make=replaced(lambda p: p.symlink_to("gone.nii.gz")), says="cannot be read", is_skipped=True
    ),
    BadInput(what="a link that leads to itself", make=replaced(lambda p: p.symlink_to(p.name)), says="cannot be read", is_skipped=True),
    BadInput(what="a folder under the name of an image", make=replaced(lambda p: p.mkdir()), says="is a folder", is_skipped=True),
]

CHANNELS = [
    BadInput(
        what="a case without its second channel", make=second_channel(None), says="is missing (2 channels are expected)", is_skipped=True
    ),
    BadInput(what="a case with a channel too many", make=named("pool_3_0001.nii.gz"), says="is one channel too many", is_skipped=True),
    BadInput(
        what="a case without its first channel",
        make=image(lambda p: p.rename(p.with_name("pool_3_0001.nii.gz"))),
        says="is missing (1 channels are expected)",
        is_skipped=True,
    ),
    BadInput(
        what="channels of different size",
        make=second_channel(lambda p: write_image(phantom("pool_3")[0][1:], p)),
        says="resample them to one grid",
        is_skipped=True,
    ),
    BadInput(
        what="channels of different spacing",
        make=second_channel(lambda p: write_image(phantom("pool_3")[0], p, spacing=(2, 1, 1))),
        says="differ in spacing, origin or direction",
        is_skipped=True,
    ),
    BadInput(
        what="channels of different orientation",
        make=second_channel(lambda p: (header(p, QFORM_CODE, "2h", 0, 1), header(p, SROW, "12f", -1, 0, 0, -5, 0, 1, 0, 3.5, 0, 0, 1, 12))),
        says="differ in spacing, origin or direction",
        is_skipped=True,
    ),
]

NAMES = [
    BadInput(what="a name with a line break", make=named("a\nb_0000.nii.gz"), says="control", is_skipped=True),
    BadInput(what="a name with an escape sequence", make=named("a\x1b[31m_0000.nii.gz"), says="control", is_skipped=True),
    BadInput(what="a name that is not UTF-8", make=named(b"na\xefve_0000.nii.gz"), says="UTF-8", is_skipped=True),
    BadInput(what="a name of 230 letters", make=named("x" * 230 + "_0000.nii.gz"), says="bytes", is_skipped=True),
    BadInput(what="a hidden file, as macOS leaves them beside copies", make=named("._pool_3_0000.nii.gz"), says="hidden", is_skipped=True),
    BadInput(what="the name `..`", make=named(".._0000.nii.gz"), says="hidden", is_skipped=True),
    BadInput(what="the name of a temporary file of ours", make=named(".nnssl_tmp_x_0000.nii.gz"), says="hidden", is_skipped=True),
    BadInput(
        what="two names that differ by case only", make=named("pool_3_0000.nii.gz", "POOL_3_0000.nii.gz"), says="differ", is_skipped=True
    ),
    BadInput(
        what="two names that differ by how an accent is stored",
        make=named("na\u00efve_0000.nii.gz", "nai\u0308ve_0000.nii.gz"),
        says="differ",
        is_skipped=True,
    ),
    BadInput(what="the name of a labelled case", make=named("lab_1_0000.nii.gz"), says="a labelled case of"),
    BadInput(what="the name of a labelled case in capitals", make=named("LAB_1_0000.nii.gz"), says="a labelled case of"),
    BadInput(
        what="the name of a labelled case with `_seg` behind it",
        make=named("lab_1_seg_0000.nii.gz"),
        says="is preprocessed under the name of the mask of case",
    ),
    BadInput(
        what="the image of a labelled case under another name",
        make=image(lambda p: shutil.copyfile(p.parents[1] / "nnUNet_raw" / DATASET / "imagesTr" / "lab_1_0000.nii.gz", p)),
        says="is a copy of the image of labelled case 'lab_1'",
        is_skipped=True,
    ),
    BadInput(what="a label named like an image", make=named("pool_3_seg_0000.nii.gz"), says="label", is_skipped=True),
]
