"""How much space a case of the pool will take, from labelled cases, before a network has seen either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.confidence.evidence import Evidence
from nnunet_ssl.confidence.typical_evidence import typical_evidence
from nnunet_ssl.config import MethodConfig
from nnunet_ssl.data.evidence_store import EvidenceStore
from nnunet_ssl.data.pool_index import PoolIndex
from nnunet_ssl.data.spread import spread
from nnunet_ssl.data.stage_size import StageBytes, mean_of, pseudo_case_bytes
from nnunet_ssl.errors import SetupError
from nnunet_ssl.nnunet_api.preprocessed_case import open_image, open_segmentation
from nnunet_ssl.nnunet_api.preprocessing import load_properties
from nnunet_ssl.nnunet_api.region_labels import regions_of
from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.pseudolabel.pool_labels import PoolLabels

_CASES = 3
"""Labelled cases that are compressed."""
_LARGE_VOXELS = 4_000_000
"""Of an image; from this size on one case has to do."""
_COUNTED = 64
"""Cases whose sizes in voxels are looked up."""
_SOURCE = "x" * 32
"""Stands for the fingerprint in a file of evidence."""


@dataclass(frozen=True)
class CaseSize:
    """Mean bytes of a case of the pool."""

    evidence: float
    """Of one predictor."""
    stage: StageBytes
    """Of one stage."""


class _TypicalStore(EvidenceStore):
    """Gives evidence of labelled cases, made of their labels, as a store gives a network's."""

    def __init__(self, setup: NnunetSetup) -> None:
        super().__init__(setup.data_folder, source=_SOURCE)
        self.setup = setup

    def read(self, case: str, shape: Sequence[int] | None = None) -> Evidence:
        masks = _masks(np.asarray(open_segmentation(self.setup.data_folder, case)[0]), self.setup)
        return typical_evidence(masks, has_regions=self.setup.has_regions)


def typical_case_size(setup: NnunetSetup, method: MethodConfig, pool: PoolIndex | None = None) -> CaseSize:
    """Make evidence of a few labelled cases from their labels, and a stage's files of that; compress both as for the pool.

    Args:
        setup: the labelled dataset and its plans.
        method: what a stage stores.
        pool: sizes are those of its images, of no other image that lies beside them. None, or without images: those of the labelled ones.

    Raises:
        SetupError: if no labelled case is preprocessed.
    """
    labelled = _preprocessed_cases(setup.data_folder)
    if not labelled:
        raise SetupError(f"{setup.data_folder} holds no preprocessed case; run nnUNetv2_preprocess again.")
    wanted = _mean_voxels(pool.folder, pool.case_ids) if pool is not None and pool.images else _mean_voxels(setup.data_folder, labelled)
    properties: dict[str, Any] = load_properties(setup.data_folder, labelled[0])
    image_voxels = prod(properties["shape_before_cropping"])
    chosen = spread(labelled, 1 if image_voxels > _LARGE_VOXELS else _CASES)
    store, student = _TypicalStore(setup), method.student
    labels = PoolLabels(setup, PoolIndex(setup.data_folder, {}), {0: store}, None, 0.0)
    evidence = sum(len(store.content(store.read(case))) for case in chosen) / len(chosen)
    pseudo = [labels.pseudo_case(case, student.fixed_tau, with_probabilities=student.needs_probabilities) for case in chosen]
    stage = mean_of([pseudo_case_bytes(p, setup, load_properties(setup.data_folder, p.case)) for p in pseudo])
    scale = wanted / _mean_voxels(setup.data_folder, chosen)
    return CaseSize(evidence * scale, stage.times(scale))


def _masks(labels: NDArray[np.integer], setup: NnunetSetup) -> NDArray[np.bool_]:
    """(H, X, Y, Z) of a preprocessed segmentation; what has no class is background."""
    if setup.has_regions:
        return regions_of(labels, setup)
    foreground = [labels == label for label in setup.label_manager.foreground_labels]
    return np.stack([~np.any(foreground, axis=0), *foreground])


def _preprocessed_cases(folder: Path) -> list[str]:
    """Cases of a folder that are whole."""
    return sorted(path.stem for path in folder.glob("*.pkl"))


def _mean_voxels(folder: Path, cases: list[str]) -> float:
    return float(np.mean([prod(open_image(folder, case).shape[1:]) for case in spread(cases, _COUNTED)]))
