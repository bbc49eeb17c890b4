"""Check and preprocess one case of the pool with the labelled dataset's plans."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ssl.disk import flush_to_disk, not_whole
from nnunet_ssl.errors import InputError, StateError
from nnunet_ssl.nnunet_api.grid import same_grid
from nnunet_ssl.nnunet_api.plain_pickle import read_plain_pickle
from nnunet_ssl.nnunet_api.setup import NnunetSetup

PARTS = (".b2nd", "_seg.b2nd", ".pkl")
"""Files of a preprocessed case, the properties last: a case whose .pkl exists is whole."""


def check_case(case: str, images: list[str], plans: dict[str, object]) -> None:
    """Look at every channel of a case before nnU-Net does: nnU-Net turns one NaN into an all-NaN image and lets zeros pass.

    Raises:
        InputError: if a channel is unreadable, holds NaN or infinity, all channels are zero, the channels' geometry differs, or there are
            more or fewer channels than in labelled cases.
    """
    manager = PlansManager(plans)
    reader = manager.image_reader_writer_class()
    first: tuple[str, np.ndarray, dict[str, object]] | None = None
    any_content, num_channels = False, 0
    for path in images:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                data, properties = reader.read_images([path])
            stored = stored_values(path, data)
        except Exception as error:  # readers raise whatever their library raises
            raise unreadable(case, path, error) from error
        if not np.isfinite(stored).all():
            raise InputError(f"case '{case}': {path} has {int((~np.isfinite(stored)).sum())} NaN or infinite voxels; repair or remove it.")
        any_content, num_channels = any_content or bool(np.any(data)), num_channels + len(data)
        if first is None:
            first = (path, data, properties)
        else:
            _check_same_geometry(case, first, (path, data, properties))
    if not any_content:
        raise InputError(f"case '{case}': every voxel of {images[0]} is zero; remove it.")
    if num_channels != (expected := len(manager.foreground_intensity_properties_per_channel)):
        raise InputError(
            f"case '{case}': {images[0]} and what goes with it hold {num_channels} channels where labelled cases have {expected} "
            "(grey, RGB or RGBA?); convert or remove it."
        )


def unreadable(case: str, path: str, error: Exception) -> InputError:
    """The error of a file that a reader could not read, with the last line of what the reader said."""
    reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
    return InputError(f"case '{case}': {path} cannot be read ({reason}); replace or remove it.")


def stored_values(path: str, data: np.ndarray) -> np.ndarray:
    """What a NIfTI file really holds: SimpleITK fills a truncated one with zeros and reads NaN as 0, both without a word."""
    if not path.endswith((".nii", ".nii.gz")):
        return data
    import nibabel  # nnU-Net's own dependency

    return np.asanyarray(nibabel.load(path).dataobj)  # type: ignore[attr-defined]


def _check_same_geometry(
    case: str, first: tuple[str, np.ndarray, dict[str, object]], other: tuple[str, np.ndarray, dict[str, object]]
) -> None:
    (path_a, data_a, properties_a), (path_b, data_b, properties_b) = first, other
    if data_a.shape != data_b.shape:
        raise InputError(
            f"case '{case}': {path_a} is {data_a.shape[1:]} voxels, {path_b} is {data_b.shape[1:]}; resample them to one grid."
        )
    if not same_grid(properties_a, properties_b):
        raise InputError(f"case '{case}': {path_a} and {path_b} differ in spacing, origin or direction; register them to one grid.")


def preprocess_case(
    case: str, images: list[str], plans: dict[str, object], configuration: str, dataset_json: str, out: Path, tmp: Path
) -> None:
    """Check one case, run nnU-Net's own preprocessor on it and move the result into place, properties last.

    Args:
        case: case id.
        images: one file per channel.
        plans: content of the plans file.
        configuration: configuration name.
        dataset_json: `dataset.json` as a JSON string (cheap to send to another process).
        out: the pool folder.
        tmp: a temporary folder on the same file system.

    Raises:
        InputError: see `check_case`; also if nnU-Net's preprocessor fails on the case.
    """
    check_case(case, images, plans)
    _preprocess(case, images, None, plans, configuration, json.loads(dataset_json), tmp)
    for part in PARTS:
        os.replace(tmp / f"{case}{part}", out / f"{case}{part}")


def preprocess_label(case: str, images: Sequence[str], label: Path, setup: NnunetSetup, folder: Path) -> None:
    """Leave the segmentation and properties that nnU-Net makes of a labelled case; the image it makes is the pool's own again.

    Args:
        case: case id.
        images: one file per channel.
        label: a label image that fits them.
        setup: gives plans and labels.
        folder: where `<case>_seg.b2nd` and `<case>.pkl` go.

    Raises:
        InputError: if an image is gone, or nnU-Net's preprocessor fails on the case.
    """
    if gone := [image for image in images if not Path(image).is_file()]:
        raise InputError(f"case '{case}': its image {gone[0]} is missing; put it back where nnssl_prepare has found it.")
    _preprocess(case, list(images), str(label), setup.plans, setup.configuration, setup.dataset_json, folder)
    (folder / f"{case}{PARTS[0]}").unlink()


def _preprocess(
    case: str,
    images: list[str],
    label: str | None,
    plans: dict[str, object],
    configuration: str,
    dataset_json: dict[str, object],
    folder: Path,
) -> None:
    manager = PlansManager(plans)
    configuration_manager = manager.get_configuration(configuration)
    preprocessor = configuration_manager.preprocessor_class(verbose=False)
    try:
        preprocessor.run_case_save(str(folder / case), images, label, manager, configuration_manager, dataset_json)
    except Exception as error:
        if (folder / f"{case}{PARTS[0]}").exists():  # nnU-Net writes last: the case is good, and the disk is not
            raise not_whole(folder / f"{case}{PARTS[0]}", str(error)) from error
        raise InputError(f"case '{case}': nnU-Net cannot preprocess {images[0]} ({error}); repair or remove it.") from error
    for part in PARTS:
        flush_to_disk(folder / f"{case}{part}")


def load_properties(folder: Path, case: str) -> dict[str, object]:
    """The properties nnU-Net's preprocessor stored for a case.

    Raises:
        StateError: if the file is missing, damaged or holds anything but containers, numbers and arrays (it is not executed).
    """
    path = folder / f"{case}.pkl"
    try:
        return dict(read_plain_pickle(path))
    except Exception as error:  # a damaged pickle raises anything
        raise StateError(
            f"{path}, preprocessed for case '{case}', cannot be read ({error}) and was not opened; preprocess the case again."
        ) from error


def use_one_thread() -> None:
    """Keep a worker process from starting a thread per core."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
