"""Voxel confidence of the paper, by hand."""

import math

import numpy as np

from nnunet_ssl.confidence.evidence import Evidence
from nnunet_ssl.confidence.voxel_confidence import calibrated_confidence, paper_confidence, variance_of_labels

MEAN = np.array([[0.9, 0.3, 0.2], [0.1, 0.7, 0.8]])
VARIANCE = np.array([[0.01, 0.2, 0.3], [0.25, 0.1, 0.25]])


def test_softmax_takes_mean_and_variance_of_the_predicted_class() -> None:
    evidence = Evidence(mean=MEAN, variance=VARIANCE, votes=MEAN, num_samples=8, has_regions=False)
    confidence = paper_confidence(evidence)
    assert confidence.shape == (1, 3)
    assert confidence.dtype == np.float32
    np.testing.assert_allclose(confidence[0], [0.9 * 0.96, 0.7 * 0.6, 0], atol=1e-6)


def test_regions_take_the_side_that_is_predicted() -> None:
    evidence = Evidence(mean=MEAN, variance=VARIANCE, votes=MEAN, num_samples=8, has_regions=True)
    confidence = paper_confidence(evidence)
    np.testing.assert_allclose(confidence, [[0.9 * 0.96, 0.7 * 0.2, 0], [0, 0.7 * 0.6, 0]], atol=1e-6)


def test_the_head_stands_in_for_samples_that_are_not_there() -> None:
    u = np.full((1, 3), math.log(0.05))
    single = Evidence(mean=MEAN, variance=MEAN * 0, votes=MEAN, num_samples=1, has_regions=False, log_variance=u)
    np.testing.assert_allclose(paper_confidence(single)[0], np.array([0.9, 0.7, 0.8]) * 0.8, atol=1e-6)
    several = Evidence(mean=MEAN, variance=MEAN * 0, votes=MEAN, num_samples=2, has_regions=False, log_variance=u)
    np.testing.assert_allclose(paper_confidence(several)[0], [0.9, 0.7, 0.8], atol=1e-6)


def test_the_head_may_have_one_channel_per_region() -> None:
    u = np.log([[0.05] * 3, [0.25] * 3])
    single = Evidence(mean=MEAN, variance=MEAN * 0, votes=MEAN, num_samples=1, has_regions=True, log_variance=u)
    np.testing.assert_allclose(paper_confidence(single), [[0.72, 0.56, 0.64], [0, 0, 0]], atol=1e-6)


OTHER = np.array([1, 1, 0], dtype=np.int16)
"""Labels by somebody else; the evidence itself says 0, 1, 1."""


def test_confidence_in_labels_that_are_not_the_evidences_own() -> None:
    evidence = Evidence(mean=MEAN, variance=VARIANCE / 2, votes=MEAN, num_samples=8, has_regions=False)
    np.testing.assert_allclose(variance_of_labels(evidence, OTHER)[0], [0.125, 0.05, 0.15], atol=1e-6)
    np.testing.assert_allclose(paper_confidence(evidence, OTHER)[0], [0.1 * 0.5, 0.7 * 0.8, 0.2 * 0.4], atol=1e-6)
    np.testing.assert_allclose(calibrated_confidence(evidence.mean, has_regions=False, labels=OTHER)[0], [0.1, 0.7, 0.2], atol=1e-6)
    np.testing.assert_allclose(calibrated_confidence(evidence.mean, has_regions=False)[0], [0.9, 0.7, 0.8], atol=1e-6)


def test_confidence_in_regions_that_are_not_the_evidences_own() -> None:
    evidence = Evidence(mean=MEAN, variance=VARIANCE / 2, votes=MEAN, num_samples=8, has_regions=True)
    inside = np.array([[True, True, False], [False, False, True]])
    expected = np.array([[0.9, 0.3, 0.8], [0.9, 0.3, 0.8]])
    np.testing.assert_allclose(calibrated_confidence(evidence.mean, has_regions=True, labels=inside), expected, atol=1e-6)
    np.testing.assert_allclose(paper_confidence(evidence, inside), expected * (1 - 2 * VARIANCE), atol=1e-6)


def test_variance_of_the_head_where_there_is_one_sample() -> None:
    u = np.full((1, 3), math.log(0.05))
    single = Evidence(mean=MEAN, variance=MEAN * 0, votes=MEAN, num_samples=1, has_regions=False, log_variance=u)
    np.testing.assert_allclose(variance_of_labels(single, OTHER), 0.05, atol=1e-6)
