"""What averaging does to the confidence of teachers that are calibrated each by itself."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression


@pytest.mark.parametrize(("shared", "own", "least", "most"), [(1.5, 0.5, 0.0, 0.015), (1.5, 1.0, 0.025, 0.045), (1.0, 1.5, 0.06, 0.1)])
def test_average_of_calibrated_teachers_is_less_sure_than_right(shared: float, own: float, least: float, most: float) -> None:
    """Five teachers judge the distance of a voxel from the true boundary, with an error that all share and one of their own."""
    random = np.random.default_rng(0)
    distance = random.uniform(-5, 5, 100_000)
    truth, common = distance > 0, random.normal(0, shared, len(distance))
    teachers = [(distance + common + random.normal(0, own, len(distance)))[:, None] for _ in range(5)]
    calibrated_each = [LogisticRegression(C=1e6).fit(x, truth).predict_proba(x)[:, 1] for x in teachers]

    def error(foreground: np.ndarray) -> tuple[float, float]:
        """Calibration error of the label's confidence, and how much larger than the share of right labels the confidence is."""
        confidence, right = np.maximum(foreground, 1 - foreground), (foreground > 0.5) == truth
        gaps = np.bincount((confidence * 20).astype(int).clip(max=19), weights=confidence - right, minlength=20)
        return float(np.abs(gaps).sum() / len(truth)), float((confidence - right).mean())

    assert max(error(each)[0] for each in calibrated_each) < 0.01
    of_average, excess = error(np.mean(calibrated_each, axis=0))
    assert least <= of_average <= most
    assert excess < 0.002
