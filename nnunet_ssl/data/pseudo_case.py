"""The pseudo-label of one pool case, and the preprocessed files that hold it."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.confidence.quantise import SHARE_STEPS, share_to_int16
from nnunet_ssl.data.whole_array import array_bytes
from nnunet_ssl.nnunet_api.array_file import blocks_and_chunks
from nnunet_ssl.nnunet_api.geometry import sample_class_locations
from nnunet_ssl.nnunet_api.setup import NnunetSetup

CODE_POOL = 2
"""Code channel of a target file: a pool voxel the student learns from."""
CODE_IGNORED = 3
"""Code channel of a target file: a pool voxel without validity (disagreement, or a doubtful label that must not be unlearned)."""
_COMPRESSION = {"codec": blosc2.Codec.LZ4HC, "clevel": 5, "filters": [blosc2.Filter.SHUFFLE], "nthreads": 1}


@dataclass(frozen=True)
class PseudoCase:
    """The pseudo-label of one pool case, on the network's grid and on the image's."""

    case: str
    labels: NDArray[np.int16]
    """(X, Y, Z) label map on the preprocessed grid, -1 for background outside the nonzero mask."""
    confidence: NDArray[np.float32]
    """(C, X, Y, Z) with C = 1, or one channel per region."""
    valid: NDArray[np.bool_]
    """(X, Y, Z): False where nothing is learned: disagreement, or a doubtful label that must not be unlearned."""
    probabilities: NDArray[np.float32] | None
    """(H, X, Y, Z), where the loss needs them."""
    confident: NDArray[np.bool_]
    """(X, Y, Z): confidence of at least tau; classes are oversampled from these voxels only."""
    labels_image: NDArray[Any]
    """(X', Y', Z') label map on the image's grid, axes as the reader gives them."""
    confidence_image: NDArray[np.float32]
    """(X', Y', Z') or (R, X', Y', Z')."""
    uncertainty_image: NDArray[np.float32]
    """Variance of the predicted class (region), at most 1/4; (X', Y', Z') or (R, X', Y', Z')."""


@dataclass(frozen=True)
class PreprocessedFiles:
    """Content of the preprocessed files of a pseudo-label."""

    segmentation: bytes
    properties: bytes
    targets: bytes


def preprocessed_files(pseudo: PseudoCase, setup: NnunetSetup, properties: Mapping[str, Any]) -> PreprocessedFiles:
    """What nnU-Net's loader and the student read of a pool case besides its image.

    Args:
        pseudo: the pseudo-label.
        setup: the labelled dataset and its plans.
        properties: of the pool case, as nnU-Net's preprocessor stored them.
    """
    seg = pseudo.labels[None].astype(np.int16)
    confident = np.where(pseudo.confident[None] & pseudo.valid[None], seg, np.int16(-2))
    locations = sample_class_locations(confident, setup, taught=pseudo.valid[None])
    code = np.where(pseudo.valid, np.int16(CODE_POOL), np.int16(CODE_IGNORED))[None]
    # a threshold of 1 is that of a class of which nothing was measured: rounding must not lift a voxel over it
    confidence = share_to_int16(pseudo.confidence)
    channels = [code, np.where(pseudo.confidence < 1, np.minimum(confidence, np.int16(SHARE_STEPS - 1)), confidence)]
    if pseudo.probabilities is not None:
        channels.append(share_to_int16(pseudo.probabilities))
    return PreprocessedFiles(
        _array_file(seg, setup), pickle.dumps({**properties, "class_locations": locations}), _array_file(np.concatenate(channels), setup)
    )


def _array_file(array: NDArray[np.int16], setup: NnunetSetup) -> bytes:
    blocks, chunks = blocks_and_chunks(array.shape, setup.configuration_manager.patch_size, array.itemsize)
    return array_bytes(array, compression=_COMPRESSION, chunks=chunks, blocks=blocks)
