"""Voxel confidence c_p in [0, 1]: how far the pseudo-label at a voxel is to be trusted (paper, section III-3)."""

from __future__ import annotations

import numpy as np

from nnunet_ssl.confidence.evidence import MAX_VARIANCE, Evidence, FloatArray


def paper_confidence(evidence: Evidence) -> FloatArray:
    """Mean probability of the prediction, weighed down by its variance over the samples: c = M1 * (1 - min(1, 4 v)).

    For regions the prediction is one of two sides, with probability p inside and 1 - p outside, and the variance is the same for both.
    Where there is a single sample and an uncertainty head, the head's exp(U) takes the place of the variance.

    Args:
        evidence: of one case.

    Returns:
        (1, *spatial) for softmax heads, (R, *spatial) for region heads, float32 in [0, 1].
    """
    if evidence.has_regions:
        mean, variance = np.maximum(evidence.mean, 1 - evidence.mean), evidence.variance
    else:
        predicted = evidence.predicted_labels()[None].astype(np.intp)
        mean = np.take_along_axis(evidence.mean, predicted, axis=0)
        variance = np.take_along_axis(evidence.variance, predicted, axis=0)
    if evidence.num_samples == 1 and evidence.log_variance is not None:
        variance = np.exp(evidence.log_variance)
    certainty = 1 - np.minimum(1, variance / np.float32(MAX_VARIANCE))
    confidence: FloatArray = np.clip(mean * certainty, 0, 1)
    return confidence


def calibrated_confidence(q: FloatArray, *, has_regions: bool) -> FloatArray:
    """Calibrated probability of the label that q says: c = q of its argmax, of regions that of the side that is decided.

    Args:
        q: calibrated probabilities, (H, *spatial) in [0, 1].
        has_regions: whether the heads are regions.

    Returns:
        (1, *spatial) for softmax heads, (R, *spatial) for region heads, float32 in [0, 1].
    """
    return np.maximum(q, 1 - q) if has_regions else np.asarray(q.max(axis=0, keepdims=True))
