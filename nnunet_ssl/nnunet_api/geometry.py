"""Between the network's grid and the image's grid, and images written in the case's geometry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from acvl_utils.cropping_and_padding.bounding_boxes import bounding_box_to_slice, insert_crop_into_image
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from numpy.typing import NDArray

from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.nnunet_api.whole_image import written_whole

FloatArray = NDArray[np.float32]
MAP_COMPRESSION = 1
"""zlib's level for float maps."""
_SLICE_SPACING = 999
"""Spacing that nnU-Net's reader of natural images gives to the axis that they lack."""


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
    plans, resample = setup.plans_manager, setup.configuration_manager.resampling_fn_probabilities
    image_spacing, network_spacing = _spacings(setup, properties)
    shape = properties["shape_after_cropping_and_before_resampling"]
    resampled = np.asarray(resample(maps, shape, network_spacing, image_spacing), dtype=np.float32)
    whole = np.empty((len(maps), *properties["shape_before_cropping"]), dtype=np.float32)
    whole[:] = outside.reshape(-1, *[1] * (whole.ndim - 1))
    whole = insert_crop_into_image(whole, resampled, properties["bbox_used_for_cropping"])
    return np.ascontiguousarray(whole.transpose([0, *[i + 1 for i in plans.transpose_backward]]))


def background_probabilities(heads: int, *, has_regions: bool) -> FloatArray:
    """(H,) probabilities where there is nothing to see: background for certain, no region."""
    background = np.zeros(heads, dtype=np.float32)
    if not has_regions:
        background[0] = 1
    return background


def to_network_grid(maps: FloatArray, shape: Sequence[int], setup: NnunetSetup, properties: dict[str, Any]) -> FloatArray:
    """The way there: transpose the axes, crop to nnU-Net's nonzero region and resample, as nnU-Net resamples probabilities.

    Args:
        maps: (M, X', Y', Z') on the image's own grid, axes as the plans' reader gives them.
        shape: X, Y, Z of the preprocessed image.
        setup: the set-up whose plans preprocessed the case.
        properties: the case's properties as nnU-Net's preprocessor stored them.

    Returns:
        (M, X, Y, Z) float32 on the preprocessed grid.
    """
    resample = setup.configuration_manager.resampling_fn_probabilities
    image_spacing, network_spacing = _spacings(setup, properties)
    transposed = maps.transpose([0, *[i + 1 for i in setup.plans_manager.transpose_forward]])
    cropped = transposed[(slice(None), *bounding_box_to_slice(properties["bbox_used_for_cropping"]))]
    return np.asarray(resample(np.ascontiguousarray(cropped), list(shape), image_spacing, network_spacing), dtype=np.float32)


def image_shape(setup: NnunetSetup, properties: dict[str, Any]) -> tuple[int, ...]:
    """(X', Y', Z') of the whole image, axes as the plans' reader gives them."""
    before = properties["shape_before_cropping"]
    return tuple(int(before[i]) for i in setup.plans_manager.transpose_backward)


def _spacings(setup: NnunetSetup, properties: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Spacing of the image and of the network's grid, axes as the plans transpose them; in 2D slices stay where they are."""
    image = [float(properties["spacing"][i]) for i in setup.plans_manager.transpose_forward]
    network = [float(s) for s in setup.configuration_manager.spacing]
    return image, network if len(network) == len(image) else [image[0], *network]


def voxel_volume_ml(properties: dict[str, Any]) -> float | None:
    """Volume of a voxel of the image in millilitres, its spacing taken as millimetres; None for a flat image, which has no volume."""
    stuff = properties.get("sitk_stuff")
    is_flat = len(stuff["spacing"]) == 2 if stuff is not None else float(properties["spacing"][0]) >= _SLICE_SPACING
    return None if is_flat else float(np.prod(np.asarray(properties["spacing"], dtype=float))) / 1000


def write_label(labels: NDArray[Any], path: Path, setup: NnunetSetup, properties: dict[str, Any]) -> None:
    """Write a label map (X', Y', Z') with the plans' own writer.

    Raises:
        OSError: if the file system has no room for it.
    """
    files = setup.plans_manager.image_reader_writer_class()
    with written_whole(path, files.read_seg):
        files.write_seg(labels, str(path), properties)


def map_ending(setup: NnunetSetup) -> str:
    """File ending of float maps: the dataset's own where SimpleITK stores floats in it, NIfTI otherwise (PNG and alike hold integers)."""
    return setup.file_ending if setup.file_ending in (".nii.gz", ".nii", ".nrrd", ".mha") else ".nii.gz"


def write_map(values: FloatArray, path: Path, properties: dict[str, Any]) -> None:
    """Write a float map (X', Y', Z'), or (R, X', Y', Z') for regions, in the case's geometry (nnU-Net's writers only store integers).

    Values are rounded to three decimals: nobody reads more, and the files shrink to a fifth.

    Raises:
        OSError: if the file system has no room for it.
    """
    with written_whole(path):
        _write_map(map_values(values), path, properties)


def map_values(values: FloatArray) -> FloatArray:
    """What `write_map` stores."""
    return np.round(values, 3).astype(np.float32)


def _write_map(values: FloatArray, path: Path, properties: dict[str, Any]) -> None:
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
        if "original_orientation" in stuff:  # the reader has turned it, as nnU-Net's writer turns labels back
            image = sitk.DICOMOrient(image, stuff["original_orientation"])
    elif float(properties["spacing"][0]) < _SLICE_SPACING:
        image.SetSpacing([float(s) for s in properties["spacing"]][::-1])
    sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=MAP_COMPRESSION)


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
        turn = nibabel.orientations.ornt_transform(
            nibabel.orientations.axcodes2ornt("RAS"), nibabel.io_orientation(stuff["original_affine"])
        )
        image = image.as_reoriented(turn)
    nibabel.save(image, str(path))


def sample_class_locations(seg: NDArray[np.int16], setup: NnunetSetup, taught: NDArray[np.bool_] | None = None) -> dict[Any, Any]:
    """Voxel positions per class (region) for nnU-Net's foreground oversampling, by nnU-Net's own rule.

    Args:
        seg: (1, X, Y, Z); a negative value is no class.
        setup: gives classes, regions and the ignore label.
        taught: (1, X, Y, Z): voxels that teach anything. Where there is an ignore label, nnU-Net's other crops lie on such voxels; None:
            on those that `seg` gives a class, or -1.

    Returns:
        The `class_locations` entry of a case's properties; classes without voxels have an empty list, which nnU-Net crops at random.
    """
    labels = setup.label_manager
    sampler: Callable[..., dict[Any, Any]] = DefaultPreprocessor._sample_foreground_locations
    classes = labels.foreground_regions if labels.has_regions else labels.foreground_labels
    if not labels.has_ignore_label:
        return sampler(seg, list(classes))
    annotated = [-1, *labels.all_labels]
    if taught is None:
        return sampler(seg, [*classes, annotated])
    return sampler(seg, list(classes)) | sampler(np.where(taught, 0, -2), [annotated])
