"""Teachers that score higher or lower than others, whatever the case, prove and refute no ranking."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from nnunet_ssl.confidence.ranking_proof import prove_score
from nnunet_ssl.confidence.teacher_effects import teacher_effects


def test_effects_are_of_the_cases_that_all_have_scored() -> None:
    scores = {0: [0.9, 0.8, None, 0.1], 1: [0.7, 0.6, 0.2, None], "all": [0.8, 0.7, 0.9, 0.9]}
    assert teacher_effects(scores, among=[0, 1]) == pytest.approx({0: 0.1, 1: -0.1, "all": 0.0})
    assert teacher_effects(scores, among=[0, "all"]) == pytest.approx({0: 0.05, 1: -0.15, "all": -0.05})


def test_nothing_in_common_is_no_effect() -> None:
    assert teacher_effects({0: [0.9, None], 1: [None, 0.5]}, among=[0, 1]) == {0: 0.0, 1: 0.0}
    assert teacher_effects({0: [], 1: []}, among=[0, 1]) == {0: 0.0, 1: 0.0}


@pytest.mark.parametrize("sign", [1, -1])
def test_better_teachers_alone_prove_nothing(sign: int) -> None:
    """Five teachers of four cases each: score and Dice have a share of 0.4 of their variance by the teacher, and nothing by the case."""
    rng = np.random.default_rng(0)
    raw, corrected = Counter[str](), Counter[str]()
    for _ in range(60):
        teacher = rng.normal(scale=np.sqrt(0.4), size=5)
        folds = np.repeat(np.arange(5), 4)
        noise, dice = (rng.normal(scale=np.sqrt(0.6), size=20) for _ in range(2))
        score, truth = sign * teacher[folds] + noise, 0.5 + 0.05 * (teacher[folds] + dice)
        pool = {fold: list(sign * teacher[fold] + rng.normal(scale=np.sqrt(0.6), size=50)) for fold in range(5)}
        effects = teacher_effects(pool, among=range(5))
        names = [f"case_{i}" for i in range(20)]
        by_case = dict(zip(names, truth.clip(0, 1), strict=True))
        raw[prove_score("mean", dict(zip(names, score, strict=True)), by_case).verdict] += 1
        less = score - np.array([effects[fold] for fold in folds])
        corrected[prove_score("mean", dict(zip(names, less, strict=True)), by_case).verdict] += 1
    wrong = "proven" if sign > 0 else "refuted"
    assert raw[wrong] >= 12  # a fifth of the data sets and more
    assert corrected[wrong] <= 4
