"""Case scores; pairwise Dice against the masks themselves."""

from itertools import combinations

import numpy as np
import pytest

from nnunet_ssl.confidence.case_scores import (
    all_scores,
    expected_dice,
    foreground_score,
    mean_score,
    pairwise_dice,
    score_case,
    softmax_maximum,
)
from nnunet_ssl.confidence.evidence import Evidence, fuse
from nnunet_ssl.confidence.quantise import probability_from_uint16, probability_to_uint16
from nnunet_ssl.config import CASE_SCORES
from nnunet_ssl.errors import StateError


def of_masks(masks: np.ndarray, *, has_regions: bool = True) -> Evidence:
    """Evidence whose samples were the binary masks (K, H, *spatial)."""
    f = masks.mean(0)
    return Evidence(mean=f, variance=f * (1 - f), votes=f, num_samples=len(masks), has_regions=has_regions)


def pooled_pairwise_dice(masks: np.ndarray) -> float:
    """Sum of twice the overlap over all pairs of masks (K, *spatial), over the sum of their sizes."""
    pairs = list(combinations(masks, 2))
    return 2 * sum((a & b).sum() for a, b in pairs) / sum(a.sum() + b.sum() for a, b in pairs)


@pytest.mark.parametrize("k", [2, 3, 8, 32])
def test_pairwise_dice_is_that_of_the_masks(k: int) -> None:
    rng = np.random.default_rng(k)
    truth = rng.random((2, 6, 6, 6)) > 0.7
    masks = truth[None] ^ (rng.random((k, 2, 6, 6, 6)) > 0.9)
    expected = np.mean([pooled_pairwise_dice(masks[:, r]) for r in range(2)])
    assert pairwise_dice(of_masks(masks)).value == pytest.approx(expected, abs=1e-5)


def test_samples_of_a_mixture_count_by_their_shares() -> None:
    """Five teachers' samples that agree, and a student's that all say something else, with half of the weight."""
    here, there = np.zeros((2, 40, 1, 6), dtype=bool)
    here[:, 0, :3], there[:8, 0, 3:] = True, True
    fused = fuse(of_masks(here), of_masks(there[:8]), weight=0.5)
    shares = np.array([0.5 / 40] * 40 + [0.5 / 8] * 8)
    masks = np.concatenate([here, there[:8]])
    pairs = list(combinations(range(48), 2))
    overlap = sum(shares[i] * shares[j] * 2 * (masks[i] & masks[j]).sum() for i, j in pairs)
    sizes = sum(shares[i] * shares[j] * (masks[i].sum() + masks[j].sum()) for i, j in pairs)
    assert pairwise_dice(fused).value == pytest.approx(overlap / sizes, abs=1e-5)


def test_a_voxel_of_one_sample_counts_in_a_mixture_too() -> None:
    masks = np.zeros((40, 1, 1, 4), dtype=bool)
    masks[0, 0, 0, 0] = True
    fused = fuse(of_masks(masks), of_masks(np.zeros((8, 1, 1, 4), dtype=bool)), weight=0.5)
    assert pairwise_dice(fused).value == pytest.approx(0, abs=1e-6)


def test_pairwise_dice_survives_storage() -> None:
    masks = np.random.default_rng(0).random((8, 1, 6, 6)) > 0.6
    f = probability_from_uint16(probability_to_uint16(masks.mean(0)))
    stored = Evidence(mean=f, variance=f * 0, votes=f, num_samples=8, has_regions=True)
    assert pairwise_dice(stored).value == pytest.approx(pooled_pairwise_dice(masks[:, 0]), abs=1e-4)


def test_pairwise_dice_leaves_out_background_and_unpredicted_classes() -> None:
    masks = np.zeros((2, 4, 1, 5), dtype=bool)
    masks[0, 1, 0, :2] = True
    masks[1, 1, 0, 1:3] = True
    masks[0, 3, 0, 4] = True
    masks[:, 0] = ~masks[:, 1:].any(1)
    # class 1: overlap 1 of 2 + 2; class 2: never; class 3: one sample only, so no overlap
    assert pairwise_dice(of_masks(masks, has_regions=False)).value == pytest.approx((0.5 + 0) / 2)


def test_a_trace_from_single_windows_is_no_prediction() -> None:
    f = np.zeros((2, 1, 5), dtype=np.float32)
    f[0, 0, 0], f[1, 0, :2] = 0.01, 1
    evidence = Evidence(mean=f, variance=f * 0, votes=f, num_samples=8, has_regions=True)
    assert pairwise_dice(evidence).value == pytest.approx(1)


def test_blurred_votes_are_clipped() -> None:
    f = np.full((1, 4), 0.05, dtype=np.float32)
    evidence = Evidence(mean=f, variance=f * 0, votes=f, num_samples=8, has_regions=True)
    assert pairwise_dice(evidence).value == 0


def test_no_pairwise_dice_without_foreground_or_pairs() -> None:
    empty = of_masks(np.zeros((4, 1, 3), dtype=bool))
    assert pairwise_dice(empty).value is None
    assert "no sample predicts" in pairwise_dice(empty).reason
    single = of_masks(np.ones((1, 1, 3), dtype=bool))
    assert pairwise_dice(single).value is None
    assert "single sample" in pairwise_dice(single).reason


def softmax_case() -> tuple[Evidence, np.ndarray, np.ndarray]:
    mean = np.array([[[0.9, 0.2, 0.4, 1.0]], [[0.1, 0.8, 0.6, 0.0]]])
    confidence = np.array([[[0.9, 0.7, 0.5, 1.0]]], dtype=np.float32)
    mask = np.array([[True, True, True, False]])
    return Evidence(mean=mean, variance=mean * 0, votes=mean > 0.5, num_samples=2, has_regions=False), confidence, mask


def test_mean_and_foreground_scores_by_hand() -> None:
    evidence, confidence, mask = softmax_case()
    assert mean_score(confidence, mask).value == pytest.approx(0.7)
    assert foreground_score(evidence, confidence).value == pytest.approx(0.6)
    assert mean_score(confidence, mask & False).value is None


def test_foreground_score_of_regions_takes_each_in_its_own_voxels() -> None:
    mean = np.array([[0.9, 0.8, 0.1], [0.6, 0.1, 0.1]])
    evidence = Evidence(mean=mean, variance=mean * 0, votes=mean, num_samples=2, has_regions=True)
    confidence = np.array([[0.9, 0.6, 0.1], [0.3, 0.1, 0.1]], dtype=np.float32)
    assert foreground_score(evidence, confidence).value == pytest.approx(0.6)


def test_all_scores_have_the_names_of_the_settings() -> None:
    evidence, confidence, mask = softmax_case()
    scores = all_scores(evidence, confidence, mask, evidence.mean)
    assert set(scores) == set(CASE_SCORES)
    assert scores["pairwise_dice"] == pytest.approx(1)
    # it needs calibrated probabilities
    assert set(all_scores(evidence, confidence, mask)) == set(CASE_SCORES) - {"expected_dice"}


def test_a_case_without_foreground_says_why_it_has_no_score() -> None:
    mean = np.array([[1.0, 1.0], [0.0, 0.0]])
    evidence = Evidence(mean=mean, variance=mean * 0, votes=mean, num_samples=4, has_regions=False)
    confidence, mask = np.ones((1, 2), dtype=np.float32), np.ones(2, dtype=bool)
    assert all_scores(evidence, confidence, mask) == {"pairwise_dice": None, "foreground": None, "mean": 1.0}
    reasons = {name: score.reason for name, score in score_case(evidence, confidence, mask).items()}
    assert reasons["foreground"] == "no foreground is predicted"


def test_wrong_shapes_are_refused() -> None:
    evidence, confidence, mask = softmax_case()
    with pytest.raises(StateError, match="voxel confidence has shape"):
        all_scores(evidence, confidence[0], mask)
    with pytest.raises(StateError, match="nonzero mask has shape"):
        all_scores(evidence, confidence, mask[0])


def of_means(mean: np.ndarray, *, has_regions: bool) -> Evidence:
    return Evidence(mean=mean, variance=mean * 0, votes=mean * 0, num_samples=2, has_regions=has_regions)


def test_expected_dice_by_hand() -> None:
    # 9 voxels in a row; the first two are predicted, so the band holds the first five
    mean = np.zeros((2, 9), dtype=np.float32)
    mean[1, :2] = 1
    mean[0] = 1 - mean[1]
    q = np.zeros_like(mean)
    q[1] = [0.9, 0.6, 0.3, 0.1, 0.1, 0.5, 0.5, 0, 0]
    # overlap 1.5; sizes 2 predicted, 2.0 expected in the band, the two halves beyond it not seen
    assert expected_dice(of_means(mean, has_regions=False), q).value == pytest.approx(2 * 1.5 / (2 + 2.0))


def test_expected_dice_leaves_out_background_and_unpredicted_classes() -> None:
    mean = np.zeros((4, 1, 6), dtype=np.float32)
    mean[0, 0, 3:], mean[1, 0, 0], mean[3, 0, 1:3] = 1, 1, 1
    q = np.zeros_like(mean)
    q[1, 0, :2] = 0.8, 0.4
    q[2, 0, :] = 0.2
    q[3, 0, 1:4] = 0.5, 0.7, 0.2
    expected = [2 * 0.8 / (1 + 1.2), 2 * 1.2 / (2 + 1.4)]
    assert expected_dice(of_means(mean, has_regions=False), q).value == pytest.approx(np.mean(expected))


def test_expected_dice_of_regions_shares_one_band() -> None:
    mean = np.zeros((2, 12), dtype=np.float32)
    mean[0, 0], mean[1, 8] = 0.9, 0.9
    q = np.zeros_like(mean)
    q[0, [0, 7]] = 0.8, 0.2
    q[1, [1, 4, 8]] = 0.1, 0.7, 0.6
    # bands of single voxels: 0 to 3 and 5 to 11, so voxel 4 is in neither, and 7 counts for the region predicted at 0
    expected = [2 * 0.8 / (1 + 1.0), 2 * 0.6 / (1 + 0.7)]
    assert expected_dice(of_means(mean, has_regions=True), q).value == pytest.approx(np.mean(expected))


def test_expected_dice_is_the_mean_dice_of_truths_drawn_from_q() -> None:
    rng = np.random.default_rng(0)
    distance = np.linalg.norm(np.indices((20, 20, 20)) - 9.5, axis=0)
    q = (1 / (1 + np.exp(1.5 * (distance - 6))))[None].astype(np.float32)
    predicted = q > 0.5
    truths = rng.random((40, *q.shape[1:])) < q
    dice = [2 * (truth & predicted[0]).sum() / (truth.sum() + predicted.sum()) for truth in truths]
    assert expected_dice(of_means(q, has_regions=True), q).value == pytest.approx(np.mean(dice), abs=5e-3)


@pytest.mark.parametrize("has_regions", [False, True])
def test_expected_dice_of_certain_labels_is_one(has_regions: bool) -> None:
    mean = np.array([[1, 1, 0, 0], [0, 0, 1, 1]], dtype=np.float32)
    assert expected_dice(of_means(mean, has_regions=has_regions), mean).value == pytest.approx(1)


def test_expected_dice_is_given_where_calibrated_probabilities_are() -> None:
    evidence, confidence, mask = softmax_case()
    # voxels 1 and 2 are predicted as class 1
    q = np.array([[[0.9, 0.5, 0.5, 1.0]], [[0.1, 0.5, 0.5, 0.0]]], dtype=np.float32)
    scores = score_case(evidence, confidence, mask, q)
    assert list(scores) == [*score_case(evidence, confidence, mask), "expected_dice"]
    assert scores["expected_dice"].value == pytest.approx(2 * 1.0 / (2 + 1.1))
    assert all_scores(evidence, confidence, mask, q)["expected_dice"] == scores["expected_dice"].value


def test_no_expected_dice_without_foreground_or_with_another_shape() -> None:
    evidence = of_means(np.array([[1.0, 1.0], [0.0, 0.0]]), has_regions=False)
    assert expected_dice(evidence, evidence.mean) == (None, "no foreground is predicted")
    with pytest.raises(StateError, match="calibrated probabilities have shape"):
        expected_dice(evidence, evidence.mean[:1])


def test_softmax_maximum_by_hand() -> None:
    # voxel 0 is predicted, voxels 0 to 3 are its band
    foreground = np.array([0.8, 0.4, 0.1, 0.0, 0.0, 0.5])
    softmax = of_means(np.stack([1 - foreground, foreground]), has_regions=False)
    assert softmax_maximum(softmax).value == pytest.approx((0.8 + 0.6 + 0.9 + 1.0) / 4)
    other = np.array([0.3, 0.2, 0.0, 0.0, 0.1, 0.4])
    regions = of_means(np.stack([foreground, other]), has_regions=True)
    assert softmax_maximum(regions).value == pytest.approx(((0.8 + 0.6 + 0.9 + 1.0) + (0.7 + 0.8 + 1.0 + 1.0)) / 8)
    assert softmax_maximum(of_means(other[None], has_regions=True)) == (None, "no foreground is predicted")
