"""Kinds of datasets that nnU-Net can train, as small as can be: a few labelled cases and a small pool, all of eggs inside one another."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

NUMBER = 137
POOL = [f"pool_{i}" for i in range(3)]
CENTRE, HALF_AXES = (0.2, -0.25, 0.25), (0.85, 0.75, 0.8)
"""Of the outermost egg, in half widths of the image: no mirror image of it lies on it."""
ORIGIN, DIRECTION = (5.0, -3.5, 12.0), (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)

ANY_CHANGE = ("--set", "agreement.max_change=1")
"""Students of a few steps change labels by more than is sensible."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One dataset, and how it is trained; array axes are (z, y, x), photographs have one plane."""

    name: str
    configuration: str
    channels: tuple[str, ...]
    """Names in `dataset.json`, which also choose nnU-Net's normalisation."""
    labels: dict[str, Any]
    num_labelled: int
    shape: tuple[int, int, int]
    patch: tuple[int, ...]
    spacings: tuple[tuple[float, float, float], ...] = ((1.0, 1.0, 1.0),)
    """(x, y, z) in millimetres, one after another in turn for the cases."""
    ending: str = ".nii.gz"
    regions_class_order: tuple[int, ...] | None = None
    splits: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()
    """Training and validation cases by number, of each fold; none: nnU-Net's own five folds."""
    fold: str = "0"
    frame: tuple[tuple[int, int], ...] = ((0, 0),) * 3
    """Planes of zeros before and behind the image's content, along each axis: what nnU-Net crops away."""
    unscanned: int = 0
    """Side of a block of zeros in the corner of the content, which stays inside nnU-Net's crop."""
    ignored_from: int | None = None
    """Labelled cases carry the ignore label from this column (last axis) on."""
    stages: tuple[float, ...] = (1.0,)
    first: tuple[str, ...] = ()
    """Further flags of `nnssl_pseudolabel` for the first stage."""
    later: tuple[str, ...] = ()
    """Further flags of `nnssl_pseudolabel` from the second stage on."""
    plans: dict[str, Any] = field(default_factory=dict)
    """Configurations added to nnU-Net's plans."""

    @property
    def dataset(self) -> str:
        return f"Dataset{NUMBER}_{self.name}"

    @property
    def labelled(self) -> list[str]:
        return [f"lab_{i}" for i in range(self.num_labelled)]

    @property
    def ignore_label(self) -> int | None:
        return self.labels.get("ignore")

    def spacing(self, case: str) -> tuple[float, float, float]:
        return self.spacings[_number(case) % len(self.spacings)]


KINDS = {
    kind.name: kind
    for kind in (
        # 2D, PNG, three channels in one file, nnU-Net's own split of six cases
        Kind(
            name="Photographs",
            configuration="2d",
            channels=("R", "G", "B"),
            labels={"background": 0, "rim": 1, "core": 2},
            ending=".png",
            num_labelled=6,
            shape=(1, 38, 34),
            patch=(32, 32),
        ),
        # 3D, four channels, regions, a border of zeros and a corner, thick slices along the last axis, spacings that differ
        Kind(
            name="Tumours",
            configuration="3d_fullres",
            channels=("T1", "T1ce", "T2", "FLAIR"),
            labels={"background": 0, "whole tumour": [1, 2, 3], "tumour core": [2, 3], "enhancing tumour": [3]},
            regions_class_order=(1, 2, 3),
            num_labelled=6,
            splits=(((0, 1), (2, 3, 4, 5)),),
            shape=(20, 18, 8),
            frame=((4, 2), (3, 1), (1, 2)),
            unscanned=3,
            spacings=((3.0, 1.0, 1.0), (3.0, 1.0, 1.0), (2.5, 1.2, 1.0)),
            patch=(8, 16, 16),
            stages=(0.7, 1.0),
            later=("--confidence", "calibrated", *ANY_CHANGE),
        ),
        # CT, NRRD, one channel, the low resolution of a cascade
        Kind(
            name="Organs",
            configuration="3d_lowres",
            channels=("CT",),
            labels={"background": 0, "organ": 1},
            ending=".nrrd",
            num_labelled=5,
            shape=(24, 26, 28),
            patch=(16, 16, 16),
            plans={
                "3d_lowres": {
                    "inherits_from": "3d_fullres",
                    "data_identifier": "nnUNetPlans_3d_lowres",
                    "spacing": [1.5, 1.5, 1.5],
                    "next_stage": "3d_cascade_fullres",
                },
                "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
            },
        ),
        # volumes slice by slice, four labelled cases with an ignore label, cross-fitted in final mode by a split of our own
        Kind(
            name="Scribbles",
            configuration="2d",
            channels=("T1",),
            labels={"background": 0, "rim": 1, "core": 2, "ignore": 3},
            num_labelled=4,
            splits=(((0, 1), (2, 3)), ((2, 3), (0, 1))),
            fold="all",
            shape=(6, 24, 22),
            spacings=((1.0, 1.0, 3.0),),
            patch=(24, 24),
            ignored_from=14,
            stages=(0.7, 1.0),
            first=("--confidence", "paper"),
            later=("--confidence", "auto", *ANY_CHANGE),
        ),
    )
}


def _number(case: str) -> int:
    return int(case.rsplit("_", 1)[1])


def scene(kind: Kind, case: str) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Image (channels, z, y, x) and label of a case: eggs inside one another, brighter the further in, off the middle, in noise.

    Images of the pool are 40 % brighter than labelled ones, as if another scanner had made them.
    """
    random = np.random.default_rng([_number(case), case.startswith("pool")])
    values = sorted({v for group in kind.labels.values() for v in np.atleast_1d(group)} - {0, kind.ignore_label})
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in kind.shape], indexing="ij"))
    axes, centre = (np.array(v).reshape(3, 1, 1, 1) for v in (HALF_AXES, random.uniform(-0.1, 0.1, size=3) + CENTRE))
    distance = np.linalg.norm((grid - centre) / axes, axis=0)
    label = np.zeros(kind.shape, dtype=np.uint8)
    for i, value in enumerate(values):
        label[distance < 1 - 0.5 * i / len(values)] = value
    gain = 1.4 if case.startswith("pool") else 1.0
    image = np.stack([gain * (60 + (c + 1) * 25 * label + random.normal(0, 6, kind.shape)) for c in range(len(kind.channels))])
    image[:, : kind.unscanned, : kind.unscanned, : kind.unscanned] = 0
    label[: kind.unscanned, : kind.unscanned, : kind.unscanned] = 0
    return np.pad(image.clip(0, None), [(0, 0), *kind.frame]).astype(np.float32), np.pad(label, kind.frame)


def manual_label(kind: Kind, case: str) -> NDArray[np.uint8]:
    """The label as its annotator left it, the part that nobody has labelled included."""
    label = scene(kind, case)[1]
    if kind.ignored_from is not None:
        label[..., kind.ignored_from :] = kind.ignore_label
    return label


def write(kind: Kind, array: NDArray[Any], path: Path, case: str) -> None:
    """Write an array (z, y, x); a photograph's (channels, 1, y, x) in one file of three colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind.ending == ".png":
        flat = np.moveaxis(array[:, 0], 0, -1) if array.ndim == 4 else array[0]
        sitk.WriteImage(sitk.GetImageFromArray(flat.clip(0, 255).astype(np.uint8), isVector=array.ndim == 4), str(path))
        return
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(kind.spacing(case))
    image.SetOrigin(ORIGIN)
    image.SetDirection(DIRECTION)
    sitk.WriteImage(image, str(path))


def write_images(kind: Kind, folder: Path, cases: list[str]) -> None:
    """One file per channel, or one photograph."""
    for case in cases:
        image, _ = scene(kind, case)
        for number, channel in enumerate([image] if kind.ending == ".png" else image):
            write(kind, channel, folder / f"{case}_{number:04d}{kind.ending}", case)


def write_dataset(kind: Kind, raw: Path, unlabelled: Path) -> None:
    """The labelled dataset in `nnUNet_raw`, and the folder of the pool."""
    folder = raw / kind.dataset
    write_images(kind, folder / "imagesTr", kind.labelled)
    write_images(kind, unlabelled, POOL)
    for case in kind.labelled:
        write(kind, manual_label(kind, case), folder / "labelsTr" / f"{case}{kind.ending}", case)
    content: dict[str, Any] = {"channel_names": {str(i): name for i, name in enumerate(kind.channels)}, "labels": kind.labels}
    content |= {"numTraining": kind.num_labelled, "file_ending": kind.ending}
    if kind.regions_class_order:
        content["regions_class_order"] = list(kind.regions_class_order)
    (folder / "dataset.json").write_text(json.dumps(content))
