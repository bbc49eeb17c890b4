"""Evidence: pseudo-labels, mixtures of moments, refusal of what does not fit."""

from typing import Any

import numpy as np
import pytest

from nnunet_ssl.confidence.evidence import Evidence, fuse, merge
from nnunet_ssl.errors import ConfigError, StateError


def of_samples(samples: np.ndarray, *, has_regions: bool = False) -> Evidence:
    """Evidence of samples (K, H, *spatial), by definition."""
    if has_regions:
        votes = samples > 0.5
    else:
        votes = samples.argmax(1)[:, None] == np.arange(samples.shape[1]).reshape(1, -1, *[1] * (samples.ndim - 2))
    return Evidence(mean=samples.mean(0), variance=samples.var(0), votes=votes.mean(0), num_samples=len(samples), has_regions=has_regions)


def softmax_samples(seed: int, k: int = 4) -> np.ndarray:
    return np.moveaxis(np.random.default_rng(seed).dirichlet(np.ones(3), size=(k, 2, 3)), -1, 1)


def assert_same(one: Evidence, other: Evidence) -> None:
    for name in ("mean", "variance", "votes"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-6)
    assert one.num_samples == other.num_samples


def test_softmax_labels_are_argmax() -> None:
    mean = np.array([[0.5, 0.2, 0.4], [0.3, 0.7, 0.2], [0.2, 0.1, 0.4]])
    evidence = Evidence(mean=mean, variance=mean * 0, votes=mean, num_samples=4, has_regions=False)
    assert evidence.predicted_labels().tolist() == [0, 1, 0]
    assert evidence.predicted_labels().dtype == np.int16
    assert evidence.foreground().tolist() == [False, True, False]
    assert evidence.mean.dtype == np.float32
    assert evidence.spatial_shape == (3,)


def test_region_labels_may_overlap_and_need_more_than_half() -> None:
    mean = np.array([[0.6, 0.5, 0.1], [0.7, 0.2, 0.1]])
    evidence = Evidence(mean=mean, variance=mean * 0, votes=mean, num_samples=4, has_regions=True)
    assert evidence.predicted_labels().tolist() == [[True, False, False], [True, False, False]]
    assert evidence.foreground().tolist() == [True, False, False]


def test_fuse_by_hand() -> None:
    def one(p: float, v: float, f: float, k: int) -> Evidence:
        mean = np.array([[1 - p], [p]])
        return Evidence(mean=mean, variance=np.full((2, 1), v), votes=np.array([[1 - f], [f]]), num_samples=k, has_regions=False)

    fused = fuse(one(0.8, 0.01, 1.0, 8), one(0.4, 0.05, 0.25, 4), weight=0.25)
    assert fused.mean[1, 0] == pytest.approx(0.7)
    # 0.75 * (0.01 + 0.64) + 0.25 * (0.05 + 0.16) - 0.49
    assert fused.variance[1, 0] == pytest.approx(0.05)
    assert fused.votes[1, 0] == pytest.approx(0.8125)
    assert fused.num_samples == 12
    assert fused.shares == pytest.approx((0.75 / 8,) * 8 + (0.25 / 4,) * 4)


@pytest.mark.parametrize("has_regions", [False, True])
def test_equal_shares_of_equal_numbers_are_all_samples_together(has_regions: bool) -> None:
    a, b, c = (softmax_samples(seed) for seed in range(3))
    parts = [of_samples(s, has_regions=has_regions) for s in (a, b, c)]
    assert_same(fuse(parts[0], parts[1], weight=0.5), of_samples(np.concatenate([a, b]), has_regions=has_regions))
    assert_same(merge(parts), of_samples(np.concatenate([a, b, c]), has_regions=has_regions))


def test_a_side_without_weight_has_no_part() -> None:
    teacher, student = of_samples(softmax_samples(0)), of_samples(softmax_samples(1))
    assert fuse(teacher, student, weight=0) is teacher
    assert fuse(teacher, student, weight=1) is student
    assert merge([teacher]) is teacher


def test_variance_stays_in_its_range() -> None:
    extremes = np.zeros((2, 2, 1))
    extremes[0, 1], extremes[1, 1] = 1, 0
    extremes[:, 0] = 1 - extremes[:, 1]
    zero, one = of_samples(extremes[1:]), of_samples(extremes[:1])
    assert merge([zero, one]).variance.max() == 0.25


def test_log_variances_mix_as_variances_if_all_have_them() -> None:
    def one(log_variance: float | None) -> Evidence:
        mean = np.full((2, 1), 0.5)
        u = None if log_variance is None else np.array([[log_variance]])
        return Evidence(mean=mean, variance=mean * 0, votes=mean, num_samples=1, has_regions=False, log_variance=u)

    mixed = merge([one(np.log(0.1)), one(np.log(0.2))])
    assert mixed.log_variance is not None
    assert mixed.log_variance[0, 0] == pytest.approx(np.log(0.15), abs=1e-5)
    assert merge([one(np.log(0.1)), one(None)]).log_variance is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variance": np.zeros((3, 4))}, "variance has shape"),
        ({"votes": np.zeros((2, 5))}, "votes has shape"),
        ({"log_variance": np.zeros((2, 4))}, "log-variance has shape"),
        ({"num_samples": 0}, "0 samples"),
        ({"mean": np.zeros((1, 4))}, "2 or more heads"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"mean": np.zeros((2, 4)), "variance": np.zeros((2, 4)), "votes": np.zeros((2, 4)), "num_samples": 2}
    with pytest.raises(StateError, match=message):
        Evidence(**{**good, "has_regions": False, **change})


def test_mixtures_of_different_things_are_refused() -> None:
    samples = softmax_samples(0)
    teacher = of_samples(samples)
    with pytest.raises(StateError, match="has shape"):
        fuse(teacher, of_samples(samples[..., :2]), weight=0.5)
    with pytest.raises(StateError, match="region heads"):
        merge([teacher, of_samples(samples, has_regions=True)])
    with pytest.raises(StateError, match="no evidence"):
        merge([])
    with pytest.raises(ConfigError, match="weight"):
        fuse(teacher, teacher, weight=1.5)
