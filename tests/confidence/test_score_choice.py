"""When another case score takes the place of the one in use."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from nnunet_ssl.confidence.case_bootstrap import resample_cases
from nnunet_ssl.confidence.score_choice import choose_case_score, paired_difference

DICE = dict(zip("abcdefgh", np.linspace(0.2, 0.9, 8), strict=True))
ORDERED = dict(zip("abcdefgh", range(8), strict=True))


def by_case(values: Sequence[float | None]) -> dict[str, float | None]:
    return dict(zip("abcdefgh", values, strict=False))


SHUFFLED = by_case([4, 1, 7, 2, 0, 6, 3, 5])


def test_a_clearly_better_score_takes_over() -> None:
    name, reason = choose_case_score({"pairwise_dice": SHUFFLED, "foreground": ORDERED}, DICE)
    assert name == "foreground"
    # ranks of the shuffled one differ by 4, 0, 5, 1, 4, 1, 3, 2: 1 - 6 * 72 / (8 * 63)
    assert f"better by {1 - (1 - 432 / 504):.2f}" in reason


def test_paired_difference_resamples_both_scores_alike() -> None:
    found = paired_difference(ORDERED, SHUFFLED, DICE, seed=5)
    assert found is not None
    assert found.difference == pytest.approx(432 / 504)
    s, o, d = (np.array(list(values.values()), dtype=float) for values in (SHUFFLED, ORDERED, DICE))
    differences = [
        stats.spearmanr(o[rows], d[rows]).statistic - stats.spearmanr(s[rows], d[rows]).statistic
        for rows in resample_cases(np.zeros(8, dtype=np.intp), seed=5)
        if len(set(rows)) > 1
    ]
    assert found.standard_error == pytest.approx(np.std(differences, ddof=1))


def test_a_little_better_is_not_enough() -> None:
    # one swap of neighbours: 1 - 6 * 2 / 504, within the error
    almost = by_case([1, 0, 2, 3, 4, 5, 6, 7])
    found = paired_difference(ORDERED, almost, DICE)
    assert found is not None
    assert 0 < found.difference < found.standard_error
    assert choose_case_score({"pairwise_dice": almost, "mean": ORDERED}, DICE)[0] == "pairwise_dice"
    assert choose_case_score({"pairwise_dice": ORDERED, "mean": ORDERED}, DICE)[0] == "pairwise_dice"


def test_the_best_of_the_better_ones_is_taken_and_baselines_never() -> None:
    good = by_case([0, 1, 2, 4, 3, 5, 6, 7])
    scores = {"pairwise_dice": SHUFFLED, "foreground": good, "mean": ORDERED, "softmax": ORDERED}
    assert choose_case_score(scores, DICE)[0] == "mean"
    assert choose_case_score({**scores, "expected_dice": ORDERED}, DICE)[0] == "expected_dice"
    assert choose_case_score({"pairwise_dice": SHUFFLED, "softmax": ORDERED}, DICE)[0] == "pairwise_dice"
    assert choose_case_score(scores, DICE, in_use="mean")[0] == "mean"


@pytest.mark.parametrize(
    ("reference", "other"),
    [
        pytest.param(by_case([3, 2, 1]), ORDERED, id="3 cases in common"),
        pytest.param(by_case([3, 2, 1, None, None, None]), by_case([1, 2, 3, 4, 5, 6]), id="3 cases with both scores"),
        pytest.param(by_case([1.0] * 8), ORDERED, id="constant score in use"),
        pytest.param(SHUFFLED, by_case([1.0] * 8), id="constant other score"),
    ],
)
def test_what_cannot_be_measured_changes_nothing(reference: dict[str, float | None], other: dict[str, float | None]) -> None:
    assert paired_difference(other, reference, DICE) is None
    assert choose_case_score({"pairwise_dice": reference, "mean": other}, DICE)[0] == "pairwise_dice"


def test_mostly_constant_resamples_change_nothing() -> None:
    dice = {"a": 0.1, "b": 0.1, "c": 0.1, "d": 0.9}
    assert paired_difference({"a": 0, "b": 0, "c": 0, "d": 1}, {"a": 1, "b": 0, "c": 0, "d": 0}, dice) is None
