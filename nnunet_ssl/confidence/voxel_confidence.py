"""Voxel confidence c_p in [0, 1]: how far the pseudo-label at a voxel is to be trusted (paper, section III-3)."""

from __future__ import annotations

import numpy as np

from nnunet_ssl.confidence.evidence import MAX_VARIANCE, BoolArray, Evidence, FloatArray, LabelArray


def paper_confidence(evidence: Evidence, labels: LabelArray | BoolArray | None = None) -> FloatArray:
    """Mean probability of the prediction, weighed down by its variance over the samples: c = M1 * (1 - min(1, 4 v)).

    For regions the prediction is one of two sides, with probability p inside and 1 - p outside, and the variance is the same for both.

    Args:
        evidence: of one case.
        labels: whose confidence is asked for, (*spatial) class per voxel, for regions (R, *spatial) bool; the evidence's own by default.

    Returns:
        (1, *spatial) for softmax heads, (R, *spatial) for region heads, float32 in [0, 1].
    """
    labels = evidence.predicted_labels() if labels is None else labels
    certainty = 1 - np.minimum(1, variance_of_labels(evidence, labels) / np.float32(MAX_VARIANCE))
    confidence: FloatArray = np.clip(_probability_of(evidence.mean, labels, has_regions=evidence.has_regions) * certainty, 0, 1)
    return confidence


def calibrated_confidence(q: FloatArray, *, has_regions: bool, labels: LabelArray | BoolArray | None = None) -> FloatArray:
    """Calibrated probability of a label: c = q of its class, of regions that of the side that is decided.

    Args:
        q: calibrated probabilities, (H, *spatial) in [0, 1].
        has_regions: whether the heads are regions.
        labels: whose confidence is asked for, as in `paper_confidence`; by default the label that q itself says, its argmax.

    Returns:
        (1, *spatial) for softmax heads, (R, *spatial) for region heads, float32 in [0, 1].
    """
    if labels is not None:
        return _probability_of(q, labels, has_regions=has_regions)
    return np.maximum(q, 1 - q) if has_regions else np.asarray(q.max(axis=0, keepdims=True))


def confidence_of_written(confidence: FloatArray, predicted: BoolArray, written: BoolArray) -> FloatArray:
    """Confidence in regions as a label map has them, which may contradict the probability of a region that another one lies in.

    Args:
        confidence: (R, *spatial) in the side of each region that its own probability says.
        predicted: (R, *spatial), those sides.
        written: (R, *spatial), the sides of the label map.

    Returns:
        (R, *spatial) in [0, 1]; at most 1/2, and never more than 1 - confidence, where the two differ.
    """
    return np.where(predicted == written, confidence, np.minimum(confidence, 1 - confidence)).astype(np.float32)


def variance_of_labels(evidence: Evidence, labels: LabelArray | BoolArray | None = None) -> FloatArray:
    """Variance of the labels' probability over the samples; the head's exp(U) where a single pass is all there is and there is a head.

    Args:
        evidence: of one case.
        labels: as in `paper_confidence`.

    Returns:
        (1, *spatial) for softmax heads, (R, *spatial) for region heads (with a head as many channels as that has), float32 in [0, 1/4].
    """
    if evidence.num_samples == 1 and evidence.log_variance is not None:
        return np.exp(evidence.log_variance)
    if evidence.has_regions:
        return evidence.variance
    labels = evidence.predicted_labels() if labels is None else labels
    return np.take_along_axis(evidence.variance, labels[None].astype(np.intp), axis=0)


def _probability_of(probabilities: FloatArray, labels: LabelArray | BoolArray, *, has_regions: bool) -> FloatArray:
    if has_regions:
        return np.where(labels, probabilities, 1 - probabilities)
    return np.take_along_axis(probabilities, labels[None].astype(np.intp), axis=0)
