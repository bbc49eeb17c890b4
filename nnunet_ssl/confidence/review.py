"""Which new cases somebody should look at: those with a lower predicted Dice than most held-out cases, or a lower score than all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nnunet_ssl.confidence.case_scores import Score
from nnunet_ssl.confidence.predicted_dice import EQUAL_SCORES, DicePrediction

WEAK_DICE = 0.5
"""Held-out Dice of a class below which it counts as at risk, and predicted Dice of a case below which it is reviewed in any case."""
WORST_SHARE = 0.1
"""A case is reviewed if its predicted Dice is one that only this share of the held-out cases stays below."""


class Review(NamedTuple):
    """Whether somebody should look at a case."""

    is_needed: bool | None
    """None: unknown, for held-out cases give nothing to judge by."""
    reason: str = ""
    """Why it is needed; empty where it is not, or unknown."""


def review_limit(dice: Sequence[float]) -> float:
    """Predicted Dice below which a case is reviewed: the `WORST_SHARE` quantile of the true Dice of held-out cases, at least `WEAK_DICE`.

    The prediction is drawn to the mean the less the score says, so that a score that says nothing marks no case at random.

    Args:
        dice: true Dice of the held-out cases, in [0, 1]; at least one.
    """
    return max(WEAK_DICE, float(np.quantile(dice, WORST_SHARE)))


def review(score: Score, relation: DicePrediction | None, limit: float | None) -> Review:
    """Judge one case by its predicted Dice, and by whether its score lies below all that were measured.

    Nobody knows whether the line goes on below the scores of the held-out cases, so that such a case is for review whatever it predicts.
    Nothing was measured above them either, but a high score gives no reason for doubt.

    Args:
        score: the case score in force; a case without one has nothing that could be trusted, and is for review.
        relation: from the score to the Dice; None where held-out cases give none: of a case with a score nothing is known then.
        limit: see `review_limit`; None as the relation.
    """
    if score.value is None:
        return Review(True, score.reason)
    if relation is None or limit is None:
        return Review(None)
    predicted, lowest, reasons = float(relation.predict(score.value)), min(relation.scores), []
    if predicted < limit:
        reasons.append(f"predicted Dice {predicted:.3f} is below {limit:.3f}")
    if score.value < lowest - EQUAL_SCORES:
        held_out = f"those of all {len(relation.scores)} held-out cases, {lowest:.3f} at the least"
        reasons.append(f"its score {score.value:.3f} lies below {held_out}")
    return Review(bool(reasons), "; ".join(reasons))
