"""The Dice of new cases, predicted from held-out ones."""

import numpy as np
import pytest
from scipy import stats

from nnunet_ssl.confidence.predicted_dice import DicePrediction, fit_dice_prediction
from nnunet_ssl.errors import StateError


def fitted(scores: list[float], dice: list[float]) -> DicePrediction:
    prediction = fit_dice_prediction(scores, dice)
    assert prediction is not None
    return prediction


def test_a_line_is_found_and_clipped() -> None:
    prediction = fitted([0.2, 0.4, 0.6, 0.8], [0.1, 0.4, 0.7, 1.0])
    np.testing.assert_allclose(prediction.predict([0.0, 0.2, 0.5, 0.9]), [0, 0.1, 0.55, 1], atol=1e-12)
    assert prediction.case_error == pytest.approx(0, abs=1e-12)
    pool = prediction.mean_of_pool([0.5, None, 0.7, 0.1, float("nan"), 0.9])
    assert pool is not None
    # 0.55, 0.85, and 0 and 1 after clipping; no residuals, and no case moves the line
    assert (pool.mean, pool.low, pool.high) == pytest.approx((0.6, 0.6, 0.6))
    assert (pool.num_cases, pool.num_unscored, pool.num_outside) == (4, 2, 2)


def test_least_squares_as_in_scipy() -> None:
    rng = np.random.default_rng(0)
    scores, dice = rng.random(9), 0.3 + 0.4 * rng.random(9)
    line = stats.linregress(scores, dice)
    new = np.linspace(0.3, 0.7, 5)
    np.testing.assert_allclose(fitted(scores.tolist(), dice.tolist()).predict(new), line.intercept + line.slope * new)


def test_interval_by_hand_where_all_scores_are_equal() -> None:
    # The jackknife's squared error of a mean is s^2 / n = 0.001 / 3 / 4; a residual from the mean of the other three is 4/3 of that from
    # the mean of all: mean square 0.00025 * 16 / 9, over 4 new cases. t with 2 degrees of freedom: 4.302653.
    prediction = fitted([0.3] * 4, [0.48, 0.49, 0.51, 0.52])
    pool = prediction.mean_of_pool([0.3, 0.3, 0.3, 0.3])
    assert pool is not None
    half_width = 4.302653 * np.sqrt(0.001 / 12 + 0.00025 * 16 / 9 / 4)
    assert (pool.mean, pool.low, pool.high) == pytest.approx((0.5, 0.5 - half_width, 0.5 + half_width))
    assert prediction.case_error == pytest.approx(np.sqrt(0.00025) * 4 / 3)


def test_jackknife_with_a_slope_by_hand() -> None:
    # The line through all is flat at 0.45. Those without the first or the third case would fall, and are flat at 7/15 and 13/30. Without
    # the second, through (0, 0.4), (2, 0.5), (3, 0.4): slope 0.1 / 14, 13/30 at 5/3. Without the fourth: slope 0.05, 7/15 at 1.
    prediction = fitted([0, 1, 2, 3], [0.4, 0.5, 0.5, 0.4])
    means = np.array([7 / 15, 13 / 30 - 0.1 / 14 / 6, 13 / 30, 7 / 15 + 0.05 / 2])
    residuals = np.array([0.4 - 7 / 15, 0.5 - (13 / 30 - 0.1 / 14 * 2 / 3), 0.5 - 13 / 30, 0.4 - (7 / 15 + 0.05 * 2)])
    variance = 3 / 4 * np.square(means - means.mean()).sum() + np.square(residuals).mean() / 2
    pool = prediction.mean_of_pool([1.5, 1.5])
    assert pool is not None
    assert pool.mean == pytest.approx(0.45)
    assert pool.high - pool.mean == pytest.approx(stats.t.ppf(0.975, 2) * np.sqrt(variance))
    assert prediction.case_error == pytest.approx(np.sqrt(np.square(residuals).mean()))


@pytest.mark.parametrize("shape", ["rises", "is independent", "falls"])
@pytest.mark.parametrize("num_held_out", [4, 8, 20])
def test_intervals_hold_the_true_mean(num_held_out: int, shape: str) -> None:
    rng = np.random.default_rng(num_held_out)

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        scores, noise = rng.beta(8, 2, n), rng.normal(size=n)
        dice = {
            # curved, and noisier where the score is low
            "rises": 0.2 + 0.75 * scores**2 + noise * (0.03 + 0.15 * (1 - scores)),
            "is independent": 0.8 + 0.08 * noise,
            "falls": 1.1 - 0.3 * scores + 0.05 * noise,
        }
        return scores, np.clip(dice[shape], 0, 1)

    hits, repeats = 0, 300
    for _ in range(repeats):
        held_out, new = draw(num_held_out), draw(30)
        pool = fitted(held_out[0].tolist(), held_out[1].tolist()).mean_of_pool(new[0].tolist())
        assert pool is not None
        hits += pool.low <= new[1].mean() <= pool.high
    assert 0.91 <= hits / repeats <= 0.99


@pytest.mark.parametrize("num_held_out", [4, 8])
def test_a_tail_towards_low_dice_is_underrated(num_held_out: int) -> None:
    """A few cases are much worse than their score says; where none of them is held out, the pool looks better than it is."""
    rng, repeats = np.random.default_rng(num_held_out), 300

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        scores = rng.normal(size=n)
        return 0.85 + 0.04 * scores, np.clip(0.92 - 0.06 * np.exp(0.9 * (0.8 * rng.normal(size=n) - 0.6 * scores)), 0, 1)

    below = above = 0
    for _ in range(repeats):
        held_out, new = draw(num_held_out), draw(30)
        pool = fitted(held_out[0].tolist(), held_out[1].tolist()).mean_of_pool(new[0].tolist())
        assert pool is not None
        below += bool(new[1].mean() < pool.low)
        above += bool(new[1].mean() > pool.high)
    assert 0.03 <= below / repeats <= 0.15
    assert above / repeats <= 0.03


def test_interval_stays_in_range() -> None:
    pool = fitted([0.1, 0.5, 0.6, 0.9], [0.9, 0.1, 0.8, 1.0]).mean_of_pool([0.95])
    assert pool is not None
    assert (pool.low, pool.high) == (0, 1)


def test_a_score_that_points_the_wrong_way_predicts_the_mean() -> None:
    """The Dice falls with the score, and a score far below the others promises no better Dice."""
    prediction = fitted([0.90, 0.92, 0.93, 0.94, 0.95, 0.96], [0.89, 0.93, 0.87, 0.90, 0.86, 0.88])
    np.testing.assert_allclose(prediction.predict([0.2, 0.9, 0.99]), 5.33 / 6)
    far, near = prediction.mean_of_pool([0.2]), prediction.mean_of_pool([0.9])
    assert far is not None
    assert near is not None
    assert far.high - far.low >= near.high - near.low > 0.05


@pytest.mark.parametrize("far", [0.1, 1.9])
def test_far_beyond_the_held_out_scores_an_interval_is_the_wider(far: float) -> None:
    """Every line through three of the four leaves [0, 1] there, and on the same side."""
    prediction = fitted([0.85, 0.95, 1.05, 1.15], [0.3, 0.45, 0.5, 0.7])
    distant, near = prediction.mean_of_pool([far]), prediction.mean_of_pool([1.0])
    assert distant is not None
    assert near is not None
    assert distant.mean == (far > 1)
    assert distant.high - distant.low > near.high - near.low > 0.1


def test_rounding_errors_in_the_scores_give_no_slope() -> None:
    prediction = fitted([0.7, 0.7 + 1e-16, 0.7 - 1e-16, 0.7], [0.2, 0.9, 0.4, 0.5])
    np.testing.assert_allclose(prediction.predict([0.1, 0.7, 1.0]), 0.5)


def test_too_few_cases_give_no_prediction() -> None:
    assert fit_dice_prediction([0.1, 0.2, 0.3], [0.4, 0.5, 0.6]) is None
    assert fit_dice_prediction([0.1, None, 0.3, 0.4, 0.5], [0.4, 0.5, 0.6, 0.7, float("nan")]) is None
    assert fit_dice_prediction([], []) is None
    assert fitted([0.1, 0.2, 0.3, 0.4], [0.4, 0.5, 0.6, 0.7]).mean_of_pool([None, float("nan")]) is None


def test_wrong_input_is_refused() -> None:
    with pytest.raises(StateError, match="2 scores and 1 Dice"):
        fit_dice_prediction([0.1, 0.2], [0.3])
    with pytest.raises(StateError, match=r"\[0.1, 90.0\]"):
        fit_dice_prediction([0.1, 0.2], [0.1, 90.0])
