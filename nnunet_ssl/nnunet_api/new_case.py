"""One case that is to be predicted: checked, and preprocessed in memory as `nnUNetv2_predict` does."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnunet_ssl.errors import InputError
from nnunet_ssl.nnunet_api.image_header import check_image_file
from nnunet_ssl.nnunet_api.preprocessing import check_case, label_values
from nnunet_ssl.nnunet_api.setup import NnunetSetup

_MAY_BE_COLOURED = (".png", ".bmp", ".tif")
"""Files that may hold several channels: a grey one among them says nothing of the others."""
_MOST_LOOKED_AT = 20
"""Images that are read to see how many channels a file holds."""


@dataclass(frozen=True)
class NewCase:
    """A preprocessed case."""

    case: str
    image: Tensor
    """(channels, X, Y, Z) float32 on the network's grid."""
    nonzero: NDArray[np.bool_]
    """(X, Y, Z): inside nnU-Net's nonzero mask."""
    properties: dict[str, Any]
    """What the way back to the image's grid needs."""


def preprocess_new_case(case: str, images: Sequence[str], setup: NnunetSetup) -> NewCase:
    """Check and preprocess one case.

    Args:
        case: case id.
        images: its files, one per channel.
        setup: the model's.

    Raises:
        InputError: if a file is unreadable, holds NaN or nothing, or nnU-Net cannot preprocess the case.
    """
    check_case(case, list(images), setup.plans, setup.configuration, label_values(setup.label_manager))
    preprocessor = setup.configuration_manager.preprocessor_class(verbose=False)
    try:
        data, seg, properties = preprocessor.run_case(
            list(images), None, setup.plans_manager, setup.configuration_manager, setup.dataset_json
        )
    except Exception as error:  # whatever readers and resampling raise
        raise InputError(f"case '{case}': nnU-Net cannot preprocess {images[0]} ({error}); repair or remove it.") from error
    image = torch.from_numpy(data).to(dtype=torch.float32, memory_format=torch.contiguous_format)
    return NewCase(case, image, np.asarray(seg[0] >= 0), properties)


def files_per_case(images: Iterable[str], setup: NnunetSetup) -> int:
    """Image files that a case has: as many as the model has channels, or fewer where a file holds several, as RGB images do.

    Args:
        images: one image file of each case. The first one says it that can be read, and is not grey where others may be coloured; where
            there is none, a file is taken to hold one channel.
        setup: the model's.
    """
    channels = setup.num_channels
    for image in itertools.islice(images, _MOST_LOOKED_AT):
        with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):  # the case is checked when its turn comes
            check_image_file(image)
            in_file = len(setup.plans_manager.image_reader_writer_class().read_images([image])[0])
            if in_file > 1 or channels == 1 or setup.file_ending.lower() not in _MAY_BE_COLOURED:
                return max(1, channels // in_file)
    return channels
