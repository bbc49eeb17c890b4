"""How much space the files of a stage dataset will take."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.data.pseudo_case import PseudoCase, preprocessed_files
from nnunet_ssl.locations import preprocessed_root, raw_root
from nnunet_ssl.nnunet_api.geometry import MAP_COMPRESSION, map_ending, map_values
from nnunet_ssl.nnunet_api.setup import NnunetSetup

_LABEL_COMPRESSION = 2
"""ITK's own level, by which nnU-Net's writers compress labels."""
_HEADER_BYTES = 352
"""Of a NIfTI image."""
_UNCOMPRESSED = ".nii"
_LISTED_BYTES = 450
"""A case in both `dataset.json` of a stage, the splits and the sidecars, besides the paths of its images."""


@dataclass(frozen=True)
class StageBytes:
    """Bytes in the two halves of a stage dataset; what is linked takes none."""

    raw: float
    preprocessed: float

    @property
    def total(self) -> float:
        return self.raw + self.preprocessed

    @property
    def by_folder(self) -> dict[Path, float]:
        """By the folder of nnU-Net that each half lies in."""
        return {raw_root(): self.raw, preprocessed_root(): self.preprocessed}

    def times(self, number: float) -> StageBytes:
        return StageBytes(self.raw * number, self.preprocessed * number)

    def plus(self, other: StageBytes) -> StageBytes:
        return StageBytes(self.raw + other.raw, self.preprocessed + other.preprocessed)


NOTHING = StageBytes(0, 0)


def mean_of(cases: Sequence[StageBytes]) -> StageBytes:
    """The mean case."""
    return StageBytes(float(np.mean([c.raw for c in cases])), float(np.mean([c.preprocessed for c in cases])))


def pseudo_case_bytes(pseudo: PseudoCase, setup: NnunetSetup, properties: Mapping[str, Any]) -> StageBytes:
    """What a stage would write for a case, compressed as the stage does it.

    Args:
        pseudo: the pseudo-label.
        setup: the labelled dataset and its plans.
        properties: of the case, as nnU-Net's preprocessor stored them.
    """
    files = asdict(preprocessed_files(pseudo, setup, properties))
    labels = pseudo.labels_image.astype(np.uint8 if pseudo.labels_image.max() < 256 else np.uint16)
    raw = _image_bytes(labels, setup.file_ending, _LABEL_COMPRESSION)
    for values in (pseudo.confidence_image, pseudo.uncertainty_image):
        raw += _image_bytes(map_values(values), map_ending(setup), MAP_COMPRESSION)
    return StageBytes(raw, sum(map(len, files.values())))


def frame_bytes(setup: NnunetSetup, num_pool_cases: int) -> StageBytes:
    """JSON files of a stage with so many cases of the pool: plans, lists of cases, provenance."""
    listed = len(setup.labelled_cases) + num_pool_cases
    paths = [len(json.dumps(case.images, indent=2)) for case in setup.labelled_cases.values()]
    lists = listed * (_LISTED_BYTES / 2 + sum(paths) / max(1, len(paths)))
    return StageBytes(lists, lists + len(json.dumps(setup.plans, indent=2)))


def _image_bytes(values: NDArray[Any], ending: str, level: int) -> int:
    content = np.ascontiguousarray(values).tobytes()
    return _HEADER_BYTES + len(content if ending == _UNCOMPRESSED else zlib.compress(content, level))
