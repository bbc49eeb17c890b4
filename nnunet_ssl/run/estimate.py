"""What a run will need on disk, before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.data.pool_size import pool_case_bytes
from nnunet_ssl.nnunet_api.setup import NnunetSetup

_EVIDENCE_RATIO = 0.35
"""Compressed size over raw size of evidence, measured on hippocampus and synthetic data; background compresses away."""
_STAGE_RATIO = 0.25
"""The same for a stage's targets, labels and maps."""


@dataclass(frozen=True)
class DiskEstimate:
    """Megabytes a run adds."""

    pool: float
    evidence: float
    stages: float

    @property
    def total(self) -> float:
        return self.pool + self.evidence + self.stages


def of_all_folds(estimates: Sequence[DiskEstimate]) -> DiskEstimate:
    """Of several runs of one dataset, which share its pool."""
    return DiskEstimate(estimates[0].pool, sum(e.evidence for e in estimates), sum(e.stages for e in estimates))


def estimate_disk(setup: NnunetSetup, num_pool_cases: int, method: MethodConfig, *, teacher_folds: int = 1) -> DiskEstimate:
    """Estimate from the sizes of the labelled cases' own preprocessed files, which the pool's will resemble.

    Args:
        setup: the labelled dataset.
        num_pool_cases: cases in the pool.
        method: fractions and what a stage stores.
        teacher_folds: folds of the teacher, each of which leaves evidence of its own.
    """
    voxels = float(np.prod(setup.configuration_manager.median_image_size_in_voxels)) * _slices(setup)
    predictors = teacher_folds + (method.curriculum.num_stages - 1 if method.agreement.weight > 0 else 0)
    held_out = len(setup.labelled_cases) if teacher_folds > 1 else 0
    evidence = voxels * 3 * setup.heads * 2 * _EVIDENCE_RATIO * (num_pool_cases * predictors + held_out)
    entries = sum(max(1, int(k * num_pool_cases)) for k in method.curriculum.stage_fractions)
    channels = 3 + (setup.heads if method.student.needs_probabilities else 0)
    stages = voxels * (2 * channels + 8) * _STAGE_RATIO * entries
    return DiskEstimate(pool_case_bytes(setup) * num_pool_cases / 1e6, evidence / 1e6, stages / 1e6)


def _slices(setup: NnunetSetup) -> float:
    """Slices of a 2D configuration, whose median size names only the two in-plane axes."""
    size = setup.configuration_manager.median_image_size_in_voxels
    return float(setup.plans["original_median_shape_after_transp"][0]) if len(size) == 2 else 1.0
