"""Turn a folder of BraTS 2021 cases into an nnU-Net dataset with few labels, a pool of unlabelled images and a test set.

    python docs/examples/brats2021.py -i /data/BraTS2021 -o /data/brats -d 137 --labelled 50 --test 100

The labelled cases become a dataset in `nnUNet_raw`, in the layout of nnU-Net's own conversion of BraTS 2021: channels T1, T1ce, T2, Flair;
labels 1, 2, 3 for oedema, necrosis, enhancing tumour (2, 1, 4 in BraTS); regions whole tumour, tumour core, enhancing tumour. Below `-o`
lie `pool/` (images alone), `test/images` and `test/labels`. Images are linked, not copied. No label of a pool case is opened, or needed.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_ssl.cli.command import command
from nnunet_ssl.data.files import temporary_folder, write_json
from nnunet_ssl.errors import ConfigError, InputError, StateError
from nnunet_ssl.locations import raw_root

CHANNELS = {"t1": "T1", "t1ce": "T1ce", "t2": "T2", "flair": "Flair"}
"""Suffix of the file in BraTS, and the name in `dataset.json`, in the order of nnU-Net's channels."""
REMAPPED = {0: 0, 1: 2, 2: 1, 4: 3}
"""Label in BraTS, and in nnU-Net, which wants consecutive ones."""
REGIONS = {"whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]}
MOST_FOLDS = 5


@dataclass(frozen=True)
class Draw:
    """Which cases are what; each list is sorted."""

    labelled: list[str]
    pool: list[str]
    test: list[str]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="brats2021.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("-i", type=Path, required=True, metavar="FOLDER", help="folder of folders BraTS2021_<number>")
    made.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="a new folder for the pool and the test set")
    made.add_argument("-d", type=int, default=137, metavar="ID", help="id of the dataset of labelled cases (default: %(default)s)")
    made.add_argument("--labelled", type=int, required=True, metavar="N", help="labelled cases, at least 2")
    made.add_argument("--test", type=int, required=True, metavar="N", help="test cases")
    made.add_argument("--pool", type=int, metavar="N", help="unlabelled cases (default: all others)")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="of the draw (default: %(default)s)")
    return made


@command("brats2021.py")
def main(argv: Sequence[str] | None = None) -> None:
    """Check everything, then write: the folder of `-o` first, the dataset last."""
    arguments = parser().parse_args(argv)
    dataset, out = f"Dataset{arguments.d:03d}_BraTS2021", arguments.o.absolute()
    if taken := sorted(raw_root().glob(f"Dataset{arguments.d:03d}_*")):
        raise StateError(f"{taken[0]} exists; remove it or choose another id with -d.")
    if out.exists():
        raise StateError(f"{out} exists; give a new folder with -o.")
    images = find_cases(arguments.i.absolute())
    draw = draw_cases(list(images), arguments.labelled, arguments.test, arguments.pool, arguments.seed)
    with temporary_folder(out.parent) as beside_out, temporary_folder(raw_root()) as beside_raw:
        link_images(images, draw.pool, beside_out / "new" / "pool")
        link_images(images, draw.test, beside_out / "new" / "test" / "images")
        shown = write_labels(images, draw.test, beside_out / "new" / "test" / "labels", group="test")
        link_images(images, draw.labelled, beside_raw / "new" / "imagesTr")
        shown = write_labels(images, draw.labelled, beside_raw / "new" / "labelsTr", group="labelled") + shown
        write_json(beside_raw / "new" / "dataset.json", dataset_json(len(draw.labelled)))
        write_json(beside_raw / "new" / "splits_final.json", make_splits(draw.labelled))
        (beside_out / "new").rename(out)
        (beside_raw / "new").rename(raw_root() / dataset)
    print("\n".join([*shown, *(f"pool      {case}" for case in draw.pool)]))
    print(f"next: nnUNetv2_plan_and_preprocess -d {arguments.d} -c 3d_fullres")


def find_cases(folder: Path) -> dict[str, list[Path]]:
    """Image files of every case in nnU-Net's order of channels, sorted by case.

    Raises:
        InputError: if there are no cases, or a channel of one is missing.
    """
    cases = sorted(path.name for path in folder.glob("BraTS2021_*") if path.is_dir())
    if not cases:
        raise InputError(f"{folder} holds no folder named BraTS2021_<number>; -i takes the folder with the unpacked cases.")
    images = {case: [folder / case / f"{case}_{channel}.nii.gz" for channel in CHANNELS] for case in cases}
    for case, files in images.items():
        if missing := [file for file in files if not file.is_file()]:
            raise InputError(f"case '{case}': {missing[0]} is missing; complete the case or take its folder away.")
    return images


def draw_cases(cases: list[str], labelled: int, test: int, pool: int | None, seed: int) -> Draw:
    """Draw the groups at random, since case numbers follow sites; the labelled and test cases do not depend on the size of the pool.

    Raises:
        ConfigError: if a number is too small, or there are not enough cases.
    """
    pool = len(cases) - labelled - test if pool is None else pool
    if labelled < 2 or test < 0 or pool < 1 or labelled + test + pool > len(cases):
        raise ConfigError(
            f"{labelled} labelled, {test} test and {pool} pool cases cannot be drawn from {len(cases)}; "
            "at least 2 labelled cases and 1 of the pool are needed, and no more than there are in all."
        )
    drawn = [cases[i] for i in np.random.default_rng(seed).permutation(len(cases))]
    bounds = (0, labelled, labelled + test, labelled + test + pool)
    groups = [sorted(drawn[first:last]) for first, last in itertools.pairwise(bounds)]
    return Draw(labelled=groups[0], test=groups[1], pool=groups[2])


def link_images(images: Mapping[str, Sequence[Path]], cases: Sequence[str], folder: Path) -> None:
    """Symbolic links under the names that nnU-Net wants."""
    folder.mkdir(parents=True)
    for case in cases:
        for channel, file in enumerate(images[case]):
            (folder / f"{case}_{channel:04d}.nii.gz").symlink_to(file)


def write_labels(images: Mapping[str, Sequence[Path]], cases: Sequence[str], folder: Path, *, group: str) -> list[str]:
    """Write the labels as nnU-Net wants them; returns a line per case with the volume of its regions.

    Raises:
        InputError: if a label file is missing, unreadable, or holds other values than 0, 1, 2 and 4.
    """
    folder.mkdir(parents=True)
    lines = []
    for case in cases:
        labels, image = read_labels(case, images[case][0].with_name(f"{case}_seg.nii.gz"))
        written = sitk.GetImageFromArray(labels)
        written.CopyInformation(image)
        sitk.WriteImage(written, str(folder / f"{case}.nii.gz"), useCompression=True)
        voxel_ml = float(np.prod(image.GetSpacing())) / 1000
        volumes = (f"{name} {np.isin(labels, values).sum() * voxel_ml:.1f} ml" for name, values in REGIONS.items())
        lines.append(f"{group:<10}{case}: {', '.join(volumes)}")
    return lines


def read_labels(case: str, path: Path) -> tuple[NDArray[np.uint8], sitk.Image]:
    """(Z, Y, X) labels of nnU-Net, and the image they come from; errors as in `write_labels`."""
    if not path.is_file():
        raise InputError(f"case '{case}': {path} is missing; labelled and test cases need it, only pool cases do not.")
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"case '{case}': {path} cannot be read ({str(error).splitlines()[-1]}); download it again.") from error
    found = sitk.GetArrayFromImage(image)
    if unknown := sorted(set(np.unique(found).tolist()) - set(REMAPPED)):
        raise InputError(f"case '{case}': {path} has the value {unknown[0]:g}; labels of BraTS 2021 are 0, 1, 2 and 4.")
    labels = np.zeros(found.shape, dtype=np.uint8)
    for given, wanted in REMAPPED.items():
        labels[found == given] = wanted
    return labels, image


def dataset_json(num_training: int) -> dict[str, Any]:
    """What nnU-Net's own conversion writes."""
    return {
        "channel_names": {str(number): name for number, name in enumerate(CHANNELS.values())},
        "labels": {"background": 0, **REGIONS},
        "regions_class_order": [1, 2, 3],
        "numTraining": num_training,
        "file_ending": ".nii.gz",
        "license": "CC BY 4.0",
        "reference": "RSNA-ASNR-MICCAI BraTS 2021, doi 10.7937/jc8x-9874",
    }


def make_splits(cases: Sequence[str]) -> list[dict[str, list[str]]]:
    """Five folds, each holding out every fifth case; with fewer cases as many folds as cases, which nnU-Net does not make itself."""
    folds = min(MOST_FOLDS, len(cases))
    held_out = [list(cases[first::folds]) for first in range(folds)]
    return [{"train": [case for case in cases if case not in held], "val": held} for held in held_out]


if __name__ == "__main__":
    sys.exit(main())
