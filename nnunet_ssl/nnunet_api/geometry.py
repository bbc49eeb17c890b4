"""From the network's grid back to the image's grid, and images written in the case's geometry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from acvl_utils.cropping_and_padding.bounding_boxes import insert_crop_into_image
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from numpy.typing import NDArray

from nnunet_ssl.nnunet_api.setup import NnunetSetup

FloatArray = NDArray[np.float32]
_NIFTI_COMPRESSION = 1


def to_image_grid(maps: FloatArray, outside: FloatArray, setup: NnunetSetup, properties: dict[str, Any]) -> FloatArray:
    """Resample maps from the network's grid, put them back into the uncropped image and undo nnU-Net's axis transposition.

    Args:
        maps: (M, X, Y, Z) on the preprocessed grid.
        outside: (M,) values outside nnU-Net's nonzero crop.
        setup: the set-up whose plans preprocessed the case.
        properties: the case's properties as nnU-Net's preprocessor stored them.

    Returns:
        (M, X', Y', Z') float32 on the image's own grid, axes as the plans' reader gives them.
    """
    plans, configuration = setup.plans_manager, setup.configuration_manager
    forward = plans.transpose_forward
    image_spacing = [properties["spacing"][i] for i in forward]
    shape = properties["shape_after_cropping_and_before_resampling"]
    network_spacing = configuration.spacing if len(configuration.spacing) == len(shape) else [image_spacing[0], *configuration.spacing]
    resampled = np.asarray(configuration.resampling_fn_probabilities(maps, shape, network_spacing, image_spacing), dtype=np.float32)
    whole = np.empty((len(maps), *properties["shape_before_cropping"]), dtype=np.float32)
    whole[:] = outside.reshape(-1, *[1] * (whole.ndim - 1))
    whole = insert_crop_into_image(whole, resampled, properties["bbox_used_for_cropping"])
    return np.ascontiguousarray(whole.transpose([0, *[i + 1 for i in plans.transpose_backward]]))


def write_label(labels: NDArray[Any], path: Path, setup: NnunetSetup, properties: dict[str, Any]) -> None:
    """Write a label map (X', Y', Z') with the plans' own writer."""
    setup.plans_manager.image_reader_writer_class().write_seg(labels, str(path), properties)


def map_ending(setup: NnunetSetup) -> str:
    """File ending of float maps: the dataset's own where SimpleITK stores floats in it, NIfTI otherwise (PNG and alike hold integers)."""
    return setup.file_ending if setup.file_ending in (".nii.gz", ".nii", ".nrrd", ".mha") else ".nii.gz"


def write_map(values: FloatArray, path: Path, properties: dict[str, Any]) -> None:
    """Write a float map (X', Y', Z'), or (R, X', Y', Z') for regions, in the case's geometry (nnU-Net's writers only store integers).

    Values are rounded to three decimals: nobody reads more, and the files shrink to a fifth.
    """
    values = np.round(values, 3).astype(np.float32)
    if "nibabel_stuff" in properties:
        _write_nibabel(values, path, properties["nibabel_stuff"])
        return
    stuff = properties.get("sitk_stuff")
    flat = stuff is not None and len(stuff["spacing"]) == 2
    image = sitk.GetImageFromArray(_channels_last(values, flat), isVector=values.ndim == 4)
    if stuff is not None:
        image.SetSpacing(stuff["spacing"])
        image.SetOrigin(stuff["origin"])
        image.SetDirection(stuff["direction"])
    sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=_NIFTI_COMPRESSION)


def _channels_last(values: FloatArray, flat: bool) -> FloatArray:
    if values.ndim == 4:
        values = np.moveaxis(values, 0, -1)
    return values[0] if flat else values


def _write_nibabel(values: FloatArray, path: Path, stuff: dict[str, Any]) -> None:
    import nibabel  # nnU-Net's own dependency; only sets that use its nibabel reader need it

    spatial = (2, 1, 0) if values.ndim == 3 else (3, 2, 1, 0)
    affine = stuff.get("reoriented_affine", stuff["original_affine"])
    image: Any = nibabel.Nifti1Image(values.transpose(spatial), affine=affine)
    if "reoriented_affine" in stuff:
        image = image.as_reoriented(nibabel.io_orientation(stuff["original_affine"]))
    nibabel.save(image, str(path))


def sample_class_locations(seg: NDArray[np.int16], setup: NnunetSetup) -> dict[Any, Any]:
    """Voxel positions per class (region) for nnU-Net's foreground oversampling, by nnU-Net's own rule.

    Args:
        seg: (1, X, Y, Z); a negative value is no class.
        setup: gives classes, regions and the ignore label.

    Returns:
        The `class_locations` entry of a case's properties; classes without voxels have an empty list, which nnU-Net crops at random.
    """
    labels = setup.label_manager
    wanted: list[Any] = list(labels.foreground_regions if labels.has_regions else labels.foreground_labels)
    if labels.has_ignore_label:
        wanted.append([-1, *labels.all_labels])
    sampler: Callable[..., dict[Any, Any]] = DefaultPreprocessor._sample_foreground_locations
    return sampler(seg, wanted)
