"""Review: the limit from held-out Dice, and what is said of a case."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_ssl.confidence.case_scores import Score
from nnunet_ssl.confidence.predicted_dice import fit_dice_prediction
from nnunet_ssl.confidence.review import Review, review, review_limit

SCORES, DICE = [0.6, 0.7, 0.8, 0.9], [0.5, 0.6, 0.7, 0.8]
"""On the line Dice = score - 0.1."""


@pytest.mark.parametrize(
    ("dice", "limit"),
    [
        ([0.9, 0.8], 0.81),  # a tenth of the way from the worst to the other
        ([0.6 + 0.02 * i for i in range(11)], 0.62),  # the second of eleven
        ([0.2, 0.3, 0.4], 0.5),
    ],
)
def test_limit_is_the_worst_tenth_but_half_at_least(dice: list[float], limit: float) -> None:
    assert review_limit(dice) == pytest.approx(limit)


@pytest.mark.parametrize(("score", "expected"), [(0.7, Review(True, "predicted Dice 0.600 is below 0.650")), (0.8, Review(False))])
def test_cases_are_judged_by_predicted_dice(score: float, expected: Review) -> None:
    relation = fit_dice_prediction(SCORES, DICE)
    assert relation is not None
    assert review(Score(score), relation, 0.65) == expected


def test_a_score_below_all_held_out_ones_is_reviewed_whatever_it_predicts() -> None:
    """Nothing was measured there; here the line would even have fallen, so that the worst score had promised the best Dice."""
    dice = [0.89, 0.93, 0.87, 0.90, 0.86, 0.88]
    relation = fit_dice_prediction([0.90, 0.92, 0.93, 0.94, 0.95, 0.96], dice)
    judged = {score: review(Score(score), relation, review_limit(dice)) for score in (0.2, 0.9, 0.99)}
    reason = "its score 0.200 lies below those of all 6 held-out cases, 0.900 at the least"
    assert judged == {0.2: Review(True, reason), 0.9: Review(False), 0.99: Review(False)}


def test_all_reasons_are_given() -> None:
    needed, reason = review(Score(0.55), fit_dice_prediction(SCORES, DICE), 0.5)
    assert needed
    assert reason == "predicted Dice 0.450 is below 0.500; its score 0.550 lies below those of all 4 held-out cases, 0.600 at the least"


def test_without_a_threshold_only_a_missing_score_asks_for_review() -> None:
    assert review(Score(0.1), None, None) == Review(None)
    assert review(Score(None, "no foreground is predicted"), None, None) == Review(True, "no foreground is predicted")


def test_a_score_that_says_nothing_marks_none_of_those_that_were_measured() -> None:
    """Dice of 0.5 to 1 whatever the score: the prediction stays near the middle, above the worst tenth."""
    random = np.random.default_rng(0)
    scores, dice = random.uniform(0.5, 1, 40).tolist(), random.uniform(0.5, 1, 40).tolist()
    relation = fit_dice_prediction(scores, dice)
    assert relation is not None
    marked = [review(Score(s), relation, review_limit(dice)).is_needed for s in scores]
    assert not any(marked)


def test_interval_of_a_single_case_holds_its_dice() -> None:
    """Straight line with noise: the 95 % interval of one new case held its Dice in 90 to 99 of 100 data sets of eight held-out cases."""
    random, held = np.random.default_rng(1), 0
    for _ in range(300):
        scores = random.uniform(0.5, 0.9, 9)
        dice = np.clip(scores - 0.1 + random.normal(0, 0.04, 9), 0, 1)
        relation = fit_dice_prediction(scores[:8].tolist(), dice[:8].tolist())
        found = relation.mean_of_pool([float(scores[8])])  # type: ignore[union-attr]
        assert found is not None
        held += found.low <= dice[8] <= found.high
    assert 0.90 <= held / 300 <= 0.99
