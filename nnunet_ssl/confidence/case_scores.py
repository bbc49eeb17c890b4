"""Case scores C(x): how good the pseudo-labels of a whole case probably are; the pool is ranked by one of them (Eq. 7 and better)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nnunet_ssl.confidence.evidence import BoolArray, Evidence, FloatArray
from nnunet_ssl.confidence.foreground_band import foreground_band
from nnunet_ssl.config import CaseScore
from nnunet_ssl.errors import StateError

STAND_INS: dict[str, CaseScore] = {"expected_dice": "pairwise_dice", "pairwise_dice": "foreground"}
"""What ranks in place of a score that cannot be had: the first needs calibrated confidence, the second two samples of a teacher."""


class Score(NamedTuple):
    """A case score in [0, 1], or why there is none."""

    value: float | None
    reason: str = ""


def mean_score(confidence: FloatArray, image: BoolArray) -> Score:
    """Mean voxel confidence over the image (Eq. 7), padding left out; background dominates it.

    Args:
        confidence: (1, *spatial) or (R, *spatial) in [0, 1].
        image: (*spatial) bool, where the image is not empty, or foreground is predicted all the same.
    """
    if not image.any():
        return Score(None, "the image is empty")
    return Score(float(confidence[:, image].mean(dtype=np.float64)))


def foreground_score(evidence: Evidence, confidence: FloatArray) -> Score:
    """Mean voxel confidence where foreground is predicted; for regions over all regions' own voxels together."""
    labels = evidence.predicted_labels()
    predicted = np.asarray(labels if evidence.has_regions else labels[None] != 0)
    if not predicted.any():
        return Score(None, "no foreground is predicted")
    return Score(float(confidence[predicted].mean(dtype=np.float64)))


def pairwise_dice(evidence: Evidence) -> Score:
    """Pooled Dice between the samples, from votes alone, mean over the foreground classes (regions) that samples predict.

    With V = sum f^2 / sum f over the voxels, D = (V - S) / (1 - S) with S = sum of w_i^2 over the samples' shares w_i, which are 1/K each
    unless evidence of different numbers of samples is fused. With equal shares it is the sum of 2 |A_i and A_j| over all pairs of samples
    divided by the sum of |A_i| + |A_j|; else every pair and every sample counts by its shares. Where windows disagree votes are blurred
    and D can leave [0, 1], to which it is clipped. A class counts from one voxel in one sample upwards, sum f >= the smallest share; less
    is a trace that only single windows saw.
    """
    if evidence.num_samples < 2:
        return Score(None, "a single sample has no pair to be compared with")
    squares, least = sum(share**2 for share in evidence.shares), min(evidence.shares)
    dice = []
    for votes in evidence.votes if evidence.has_regions else evidence.votes[1:]:
        mass = votes.sum(dtype=np.float64)
        # the tolerance is for votes that were stored in fixed point
        if mass >= 0.99 * least:
            v = np.square(votes).sum(dtype=np.float64) / mass
            dice.append(min(1.0, max(0.0, float((v - squares) / (1 - squares)))))
    return Score(sum(dice) / len(dice)) if dice else Score(None, "no sample predicts any foreground")


def expected_dice(evidence: Evidence, q: FloatArray) -> Score:
    """Dice that the pseudo-label is to be expected to have if q is calibrated, mean over the predicted foreground classes (regions).

    Per class k it is 2 sum_{yhat=k} q_k / (|yhat=k| + sum_band q_k), the expected overlap over the expected sizes (Dice of the sums, not
    the mean of the Dice). The band is that of the whole predicted foreground, for regions of all regions together: what is missed farther
    away is not seen by this score, and q is measured nowhere else. A class that is predicted nowhere has no part in it.

    Args:
        evidence: of the case; gives the prediction yhat, by argmax of the mean, for regions by mean > 0.5.
        q: calibrated probabilities, (H, *spatial) in [0, 1].

    Raises:
        StateError: if the shape of q is not that of the evidence.
    """
    if q.shape != evidence.mean.shape:
        raise StateError(f"calibrated probabilities have shape {q.shape}, the evidence {evidence.mean.shape}.")
    labels = evidence.predicted_labels()
    band = foreground_band(evidence.foreground())
    dice = []
    for k in range(0 if evidence.has_regions else 1, len(q)):
        predicted = np.asarray(labels[k] if evidence.has_regions else labels == k)
        if size := int(predicted.sum()):
            overlap = q[k][predicted].sum(dtype=np.float64)
            dice.append(float(2 * overlap / (size + q[k][band].sum(dtype=np.float64))))
    return Score(sum(dice) / len(dice)) if dice else Score(None, "no foreground is predicted")


def softmax_maximum(evidence: Evidence) -> Score:
    """Largest mean probability of a voxel, mean over the foreground band: the usual baseline of failure detection, never ranks the pool.

    For regions it is max(p, 1 - p) averaged over the regions, in the band of all regions together.
    """
    band = foreground_band(evidence.foreground())
    if not band.any():
        return Score(None, "no foreground is predicted")
    mean = evidence.mean[:, band]
    largest = np.maximum(mean, 1 - mean) if evidence.has_regions else mean.max(axis=0)
    return Score(float(largest.mean(dtype=np.float64)))


def score_case(evidence: Evidence, confidence: FloatArray, nonzero_mask: BoolArray, q: FloatArray | None = None) -> dict[str, Score]:
    """All scores of a case by the names that the settings use, with reasons for the missing ones.

    Args:
        evidence: of the case.
        confidence: voxel confidence, (1, *spatial), for regions (R, *spatial).
        nonzero_mask: (*spatial) bool.
        q: calibrated probabilities, (H, *spatial); with them there is an `expected_dice`, too.

    Raises:
        StateError: if the shapes do not fit each other.
    """
    expected = (len(evidence.mean) if evidence.has_regions else 1, *evidence.spatial_shape)
    if confidence.shape != expected:
        raise StateError(f"voxel confidence has shape {confidence.shape}; the evidence asks for {expected}.")
    if nonzero_mask.shape != evidence.spatial_shape:
        raise StateError(f"the nonzero mask has shape {nonzero_mask.shape}, the evidence {evidence.spatial_shape}.")
    scores = {
        "pairwise_dice": pairwise_dice(evidence),
        "foreground": foreground_score(evidence, confidence),
        "mean": mean_score(confidence, nonzero_mask | evidence.foreground()),
    }
    return scores if q is None else {**scores, "expected_dice": expected_dice(evidence, q)}


def all_scores(evidence: Evidence, confidence: FloatArray, nonzero_mask: BoolArray, q: FloatArray | None = None) -> dict[str, float | None]:
    """The values of `score_case`; None where a case has no such score."""
    return {name: score.value for name, score in score_case(evidence, confidence, nonzero_mask, q).items()}
