"""What single teachers make of the pool: held-out cases have one teacher each, and are to be compared with their like."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.pseudolabel.held_out_study import HeldOutStudy
from nnunet_ssl.pseudolabel.label_source import TEACHER_ALONE, labels_of
from nnunet_ssl.pseudolabel.ranking import score_pool
from nnunet_ssl.pseudolabel.run import Run


@dataclass(frozen=True, kw_only=True)
class SingleTeachers:
    """Pool cases in their order, each as one teacher sees it."""

    mean_scores: list[float | None]
    """Scores of all teachers in the mean; None where no teacher finds anything."""
    scores: list[float | None]
    """Score of one teacher, in turn, less what it scores higher by than the others: as spread as those of held-out cases, which the mean of
    several teachers is not."""
    foreground_voxels: list[int]
    """Voxels that the same teacher predicts as foreground."""


def single_teachers(run: Run, study: HeldOutStudy) -> SingleTeachers:
    """Score the pool by every fold's teacher alone, under its own map, with the score that ranks.

    Raises:
        StateError: if evidence of a pool case is missing.
    """
    score, labels = study.ranking.chosen, labels_of(run, TEACHER_ALONE, study)
    effects = study.teacher_effects.get(score, {})
    per_fold, voxels = [], []
    for fold, store in labels.teacher.items():
        of_fold = score_pool(replace(labels, teacher={fold: store}), run.pseudo_cases, run.method.student.fixed_tau)
        per_fold.append([np.nan if (value := s.scores.get(score)) is None else value - effects.get(fold, 0.0) for s in of_fold])
        voxels.append([s.foreground_voxels for s in of_fold])
    values = np.array(per_fold, dtype=np.float64)
    places = np.arange(values.shape[1])
    turn = places % len(values)
    known = np.asarray(~np.isnan(values).all(axis=0))
    means = np.full(len(places), np.nan)
    means[known] = np.nanmean(values[:, known], axis=0)
    return SingleTeachers(
        mean_scores=_or_none(means),
        scores=_or_none(values[turn, places]),
        foreground_voxels=np.array(voxels)[turn, places].tolist(),
    )


def _or_none(values: NDArray[np.float64]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
