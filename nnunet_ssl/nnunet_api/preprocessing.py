"""Check and preprocess one case of the pool with the labelled dataset's plans."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ssl.disk import flush_to_disk, not_whole
from nnunet_ssl.errors import InputError, StateError
from nnunet_ssl.nnunet_api.grid import same_grid
from nnunet_ssl.nnunet_api.image_header import check_image_file, fits_memory, quiet_itk
from nnunet_ssl.nnunet_api.plain_pickle import read_plain_pickle
from nnunet_ssl.nnunet_api.setup import NnunetSetup

logger = logging.getLogger(__name__)

PARTS = (".b2nd", "_seg.b2nd", ".pkl")
"""Files of a preprocessed case, the properties last: a case whose .pkl exists is whole."""
_MOST_LABELS = 16
"""An image of more values than this is taken for an image, even if all of them are labels."""


def check_case(
    case: str,
    images: list[str],
    plans: dict[str, object],
    configuration: str,
    labels: Collection[int],
    *,
    warn: Callable[[str], object] = logger.warning,
) -> None:
    """Look at every channel of a case before nnU-Net does: nnU-Net turns one NaN into an all-NaN image and lets zeros pass.

    Args:
        case: case id.
        images: one file per channel.
        plans: content of the plans file.
        configuration: configuration name.
        labels: label values of the dataset; an image that holds nothing else is a label.
        warn: takes what is odd and no reason to refuse the case: a channel of zeros.

    Raises:
        InputError: if a channel is unreadable, holds NaN or infinity, all channels are zero or labels, the channels' geometry differs,
            there are more or fewer channels than in labelled cases, or the resampled image would not fit into memory.
    """
    manager = PlansManager(plans)
    reader = manager.image_reader_writer_class()
    first: tuple[str, np.ndarray, dict[str, object]] | None = None
    empty: list[str] = []
    is_label, num_channels = True, 0
    for path in images:
        try:
            check_image_file(path)
            with contextlib.redirect_stdout(io.StringIO()), quiet_itk():
                data, properties = reader.read_images([path])
            stored = stored_values(path, data)
        except Exception as error:  # readers raise whatever their library raises
            raise unreadable(case, path, error) from error
        if not np.isfinite(stored).all():
            raise InputError(f"case '{case}': {path} has {int((~np.isfinite(stored)).sum())} NaN or infinite voxels; repair or remove it.")
        empty += [path] if not np.any(data) else []
        num_channels += len(data)
        is_label = is_label and _holds_labels_alone(data, labels)
        if first is None:
            first = (path, data, properties)
        else:
            _check_same_geometry(case, first, (path, data, properties))
    if len(empty) == len(images):
        raise InputError(f"case '{case}': every voxel of {images[0]} is zero; remove it.")
    if num_channels != (expected := len(manager.foreground_intensity_properties_per_channel)):
        raise InputError(
            f"case '{case}': {images[0]} and what goes with it hold {num_channels} channels where labelled cases have {expected} "
            "(grey, RGB or RGBA?); convert or remove it."
        )
    if is_label:
        raise InputError(f"case '{case}': {images[0]} holds nothing but label values, a label under the name of an image; remove it.")
    if empty:
        warn(f"case '{case}': every voxel of {empty[0]} is zero; a channel that is missing is labelled as if it were an image")
    if first is not None:
        _check_resampled_size(case, first, manager.get_configuration(configuration).spacing, manager.transpose_forward, num_channels)


def label_values(manager: Any) -> list[int]:
    """Every value that a label image of the dataset can have."""
    return [*manager.all_labels, *([manager.ignore_label] if manager.has_ignore_label else [])]


def _holds_labels_alone(data: np.ndarray, labels: Collection[int]) -> bool:
    """Whether an image is a label image: a few whole numbers, all of them labels. Nearly every image is told apart by its maximum."""
    if data.min() < 0 or data.max() > max(labels):
        return False
    values = np.unique(data)
    return len(values) <= _MOST_LABELS and set(values.tolist()) <= set(labels)


def _check_resampled_size(
    case: str, image: tuple[str, np.ndarray, dict[str, object]], spacing_mm: Sequence[float], transpose: Sequence[int], num_channels: int
) -> None:
    """Refuse a spacing (metres for millimetres?) with which the image would become too large on the network's grid."""
    path, data, properties = image
    found = np.ravel(np.asarray(properties["spacing"], dtype=float))
    shape, before = np.array(data.shape[1:])[list(transpose)], found[list(transpose)]
    target = np.array(spacing_mm if len(spacing_mm) == len(before) else [before[0], *spacing_mm], dtype=float)
    resampled = [int(size) for size in np.maximum(1, np.round(shape * before / target))]
    if not fits_memory(resampled, num_channels):
        raise InputError(
            f"case '{case}': {path} has a spacing of {' x '.join(f'{size:g}' for size in found)} mm, with which it would have "
            f"{' x '.join(map(str, resampled))} voxels on the network's grid, more than this machine has memory for; correct the spacing."
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
    case: str,
    images: list[str],
    plans: dict[str, object],
    configuration: str,
    dataset_json: str,
    out: Path,
    tmp: Path,
    *,
    warn: Callable[[str], object] = logger.warning,
) -> None:
    """Check one case, run nnU-Net's own preprocessor on it and move the result into place, properties last.

    Args:
        case: case id.
        images: one file per channel.
        plans: content of the plans file.
        configuration: configuration name.
        dataset_json: `dataset.json` as a JSON string (cheap to send to another process).
        out: the pool folder; made if it is not there.
        tmp: a temporary folder on the same file system.
        warn: as in `check_case`.

    Raises:
        InputError: see `check_case`; also if nnU-Net's preprocessor fails on the case.
    """
    content = json.loads(dataset_json)
    check_case(case, images, plans, configuration, label_values(PlansManager(plans).get_label_manager(content)), warn=warn)
    _preprocess(case, images, None, plans, configuration, content, tmp)
    out.mkdir(exist_ok=True)
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
