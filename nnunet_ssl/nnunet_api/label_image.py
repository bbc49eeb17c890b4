"""A manual label image of a pool case, looked at before anything is made of it."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.errors import InputError
from nnunet_ssl.nnunet_api.geometry import image_shape
from nnunet_ssl.nnunet_api.grid import same_grid
from nnunet_ssl.nnunet_api.image_header import check_image_file, quiet_itk
from nnunet_ssl.nnunet_api.preprocessing import stored_values, unreadable
from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.nnunet_api.spacing_file import spacing_of_label


def check_label(case: str, path: Path, setup: NnunetSetup, properties: dict[str, Any]) -> bool:
    """Read a label image and see that it fits its image and the dataset's labels.

    Args:
        case: case id.
        path: the label image.
        setup: gives the reader and the labels.
        properties: of the case's image, as nnU-Net's preprocessor stored them.

    Returns:
        Whether the label is partial, that is whether some of its voxels have the ignore label.

    Raises:
        InputError: if it is unreadable, lies on another grid, has a value that the dataset does not have, or says nothing.
    """
    labels, found = _read(case, path, setup)
    expected = (1, *image_shape(setup, properties))
    if labels.shape != expected:
        raise InputError(f"case '{case}': {path} has shape {labels.shape}, its image {expected}; save the label on the image's grid.")
    spacing_file = spacing_of_label(path)
    is_anywhere = spacing_file is not None and not spacing_file.is_file()
    if not is_anywhere and not same_grid(found, properties):
        raise InputError(f"case '{case}': {path} and its image differ in spacing, origin or direction; save the label on the image's grid.")
    values, ignore = np.unique(labels), setup.label_manager.ignore_label
    known = [int(v) for v in setup.label_manager.all_labels]
    if (unknown := values[~np.isin(values, known if ignore is None else [*known, ignore])]).size:
        unannotated = "no ignore label for parts that are not annotated" if ignore is None else f"{ignore} for what is not annotated"
        raise InputError(
            f"case '{case}': {path} has the value {unknown[0]:g}; {setup.dataset} has {', '.join(map(str, known))} and {unannotated}; "
            "correct it."
        )
    is_partial = ignore is not None and bool(np.isin(ignore, values))
    if is_partial and len(values) == 1:
        raise InputError(f"case '{case}': {path} has nothing but the ignore label ({ignore}); annotate a part of it or leave it out.")
    return is_partial


def _read(case: str, path: Path, setup: NnunetSetup) -> tuple[NDArray[Any], dict[str, Any]]:
    """(1, X', Y', Z') values, and the reader's properties."""
    reader = setup.plans_manager.image_reader_writer_class()
    try:
        check_image_file(str(path))
        with contextlib.redirect_stdout(io.StringIO()), quiet_itk():
            labels, properties = reader.read_seg(str(path))
        stored = stored_values(str(path), labels)
    except Exception as error:  # readers raise whatever their library raises
        raise unreadable(case, str(path), error) from error
    if not np.isfinite(stored).all():
        raise InputError(f"case '{case}': {path} has NaN or infinite voxels; correct it.")
    return labels, properties
