"""Which new cases somebody should look at: those whose predicted Dice is lower than that of most held-out cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nnunet_ssl.confidence.case_scores import Score
from nnunet_ssl.confidence.predicted_dice import PredictedMean

WEAK_DICE = 0.5
"""Held-out Dice of a class below which it counts as at risk, and predicted Dice of a case below which it is reviewed in any case."""
WORST_SHARE = 0.1
"""A case is reviewed if its predicted Dice is one that only this share of the held-out cases stays below."""


class Review(NamedTuple):
    """Whether somebody should look at a case."""

    is_needed: bool | None
    """None: there is no threshold to judge by."""
    reason: str = ""


def review_limit(dice: Sequence[float]) -> float:
    """Predicted Dice below which a case is reviewed: the `WORST_SHARE` quantile of the true Dice of held-out cases, at least `WEAK_DICE`.

    The prediction is drawn to the mean the less the score says, so that a score that says nothing marks no case at random.

    Args:
        dice: true Dice of the held-out cases, in [0, 1]; at least one.
    """
    return max(WEAK_DICE, float(np.quantile(dice, WORST_SHARE)))


def review(score: Score, predicted: PredictedMean | None, limit: float | None) -> Review:
    """Judge one case.

    Args:
        score: the case score in force; a case without one has nothing that could be trusted.
        predicted: its predicted Dice, where held-out cases allow one.
        limit: see `review_limit`; None where there is none.
    """
    if score.value is None:
        return Review(True, score.reason)
    if predicted is None or limit is None:
        return Review(None)
    if predicted.mean < limit:
        return Review(True, f"predicted Dice {predicted.mean:.3f} is below {limit:.3f}")
    return Review(False)
