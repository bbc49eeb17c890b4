"""What a sliding-window sweep leaves, as evidence."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from nnunet_ssl.confidence.evidence import MAX_VARIANCE, Evidence


def to_evidence(swept: Tensor, *, heads: int, num_samples: int, has_regions: bool) -> Evidence:
    """Moments of a sweep as evidence.

    Args:
        swept: (3H + U, X, Y, Z) as `EvidencePredictor.sweep` returns it.
        heads: H.
        num_samples: K over all folds.
        has_regions: sigmoid heads.

    Returns:
        Evidence with variance max(0, M2 - M1^2), at most 1/4.
    """
    values = swept.numpy()
    mean, second, votes = values[:heads], values[heads : 2 * heads], values[2 * heads : 3 * heads]
    variance = np.clip(second - np.square(mean), 0.0, MAX_VARIANCE)
    log_variance = values[3 * heads :] if len(values) > 3 * heads else None
    return Evidence(
        mean=np.clip(mean, 0.0, 1.0),
        variance=variance,
        votes=np.clip(votes, 0.0, 1.0),
        num_samples=num_samples,
        has_regions=has_regions,
        log_variance=log_variance,
    )
