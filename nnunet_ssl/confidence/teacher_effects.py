"""How much higher one teacher scores than another, whatever the case: not to be taken for a difference between cases."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

Fold = int | str


def teacher_effects(scores: Mapping[Fold, Sequence[float | None]], *, among: Collection[Fold]) -> dict[Fold, float]:
    """What each teacher's scores are higher by than those of some teachers in the mean, on the same cases.

    Each held-out case is scored by the one teacher that has not seen it. Teachers that differ in their scores and in their Dice make a rank
    correlation over the cases of all of them, even where the score says nothing about a case; and a fold's own calibration map, fitted to
    its held-out cases, moves their scores to the share that is right among them. The pool is scored by every teacher, so that there the
    difference can be measured, and taken off.

    Args:
        scores: by fold of the teacher, of the same cases in the same order; None where a teacher gives a case no score.
        among: folds whose teachers give the mean: those that have held-out cases.

    Returns:
        By fold, with the sum 0 over `among`; 0 for all where no case has a score of every teacher.
    """
    values = np.array([[np.nan if score is None else score for score in of_fold] for of_fold in scores.values()], dtype=np.float64)
    values = values.reshape(len(scores), -1)
    known = values[:, ~np.isnan(values).any(axis=0)]
    if not known.size:
        return dict.fromkeys(scores, 0.0)
    means = dict(zip(scores, map(float, known.mean(axis=1)), strict=True))
    reference = float(np.mean([means[fold] for fold in among]))
    return {fold: mean - reference for fold, mean in means.items()}
