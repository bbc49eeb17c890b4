"""Manual labels of pool cases that were given back: found, and kept in the workspace as the stages need them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from nnunet_ssl.data.files import copy_file, link, temporary_folder
from nnunet_ssl.data.image_files import link_spacing
from nnunet_ssl.data.pool_index import PoolIndex
from nnunet_ssl.errors import InputError, StateError
from nnunet_ssl.nnunet_api.checkpoints import fingerprint
from nnunet_ssl.nnunet_api.preprocessing import PARTS, preprocess_label
from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.nnunet_api.spacing_file import spacing_of_image, spacing_of_label

FOLDER = "accepted"
"""In the workspace."""


@dataclass(frozen=True)
class AcceptedFiles:
    """Where the workspace keeps one accepted label."""

    label: Path
    """The label image as it was given."""
    segmentation: Path
    """On the network's grid, by nnU-Net's preprocessor."""
    properties: Path
    """nnU-Net's properties, with class locations."""

    def all(self) -> tuple[Path, Path, Path]:
        """Every file; beside a TIFF label there may be that of its spacing."""
        return self.label, self.segmentation, self.properties


def accepted_files(workspace: Path, case: str, label_fingerprint: str, file_ending: str) -> AcceptedFiles:
    """Where a workspace keeps a label; each version has a folder of its own, since a stage that is written keeps the one it has."""
    folder = workspace / FOLDER / label_fingerprint
    return AcceptedFiles(folder / f"{case}{file_ending}", folder / f"{case}{PARTS[1]}", folder / f"{case}{PARTS[2]}")


def find_labels(folder: Path, setup: NnunetSetup, pool: Collection[str]) -> dict[str, Path]:
    """Label images of a folder by case, sorted; other files may lie beside them.

    Raises:
        InputError: if the folder does not exist, holds no label, or a label of another case than the pool's.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; --accept takes the folder of corrected labels.")
    ending = setup.file_ending
    found = {path.name.removesuffix(ending): path for path in sorted(folder.iterdir()) if path.name.endswith(ending) and path.is_file()}
    if not found:
        raise InputError(f"{folder} holds no label named <case>{ending}; there is nothing to accept.")
    if strange := [case for case in found if case not in pool]:
        kind = f"a labelled case of {setup.dataset}" if strange[0] in setup.labelled_cases else "no case of the pool"
        raise InputError(f"{found[strange[0]]}: '{strange[0]}' is {kind}; labels to accept are named like pool cases, <case>{ending}.")
    return found


def keep_label(case: str, label: Path, setup: NnunetSetup, pool: PoolIndex, workspace: Path) -> None:
    """Copy a label that has been checked into the workspace, preprocessed by nnU-Net; whole or not at all.

    Raises:
        InputError: if the image is gone or nnU-Net cannot preprocess the case.
    """
    files = accepted_files(workspace, case, fingerprint(label), setup.file_ending)
    files.label.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(workspace / FOLDER) as temporary:
        shutil.copyfile(label, temporary / files.label.name)
        preprocess_label(case, pool.images[case], temporary / files.label.name, setup, temporary)
        _copy_spacing(label, pool.images[case][0], files.label)
        for file in files.all():
            os.replace(temporary / file.name, file)


def _copy_spacing(label: Path, image: str, place: Path) -> None:
    """Beside a TIFF label the file of its spacing, which is the image's if it came without one."""
    of_place, found = spacing_of_label(place), (spacing_of_label(label), spacing_of_image(image))
    spacing = next((file for file in found if file is not None and file.is_file()), None)
    if spacing is not None and of_place is not None:
        copy_file(spacing, of_place)


def link_label(files: AcceptedFiles, places: AcceptedFiles) -> None:
    """Link the files of an accepted label into a stage dataset.

    Raises:
        StateError: if one is gone.
    """
    for source, place in zip(files.all(), places.all(), strict=True):
        try:
            link(source, place)
        except FileNotFoundError as error:
            raise StateError(f"{source} of an accepted label is missing; give the label again: nnssl_pseudolabel --accept.") from error
    link_spacing(files.label, places.label)
