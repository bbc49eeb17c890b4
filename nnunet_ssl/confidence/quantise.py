"""Fixed-point forms in which evidence and targets are stored; linear, with exact end points, off by half a step at most."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.confidence.evidence import MAX_VARIANCE, FloatArray
from nnunet_ssl.errors import StateError

LOG_VARIANCE_RANGE = (math.log(1e-4), math.log(MAX_VARIANCE))
"""Range of the uncertainty head's output, natural logarithms."""
SHARE_STEPS = 10_000
"""Stored value of 1 in the targets files: int16, since they travel with a segmentation."""
_UINT16_STEPS = 65_535


def probability_to_uint16(probability: NDArray[Any]) -> NDArray[np.uint16]:
    """Probabilities or votes in [0, 1] in steps of 1/65535; values outside are clipped.

    Raises:
        StateError: on NaN or infinity.
    """
    return _steps(probability, 0.0, 1.0, _UINT16_STEPS).astype(np.uint16)


def probability_from_uint16(stored: NDArray[np.uint16]) -> FloatArray:
    """Probabilities or votes in [0, 1] from `probability_to_uint16`."""
    return _values(stored, 0.0, 1.0, _UINT16_STEPS)


def variance_to_uint16(variance: NDArray[Any]) -> NDArray[np.uint16]:
    """Variances in [0, 1/4] in steps of 1/(4 * 65535); values outside are clipped.

    Raises:
        StateError: on NaN or infinity.
    """
    return _steps(variance, 0.0, MAX_VARIANCE, _UINT16_STEPS).astype(np.uint16)


def variance_from_uint16(stored: NDArray[np.uint16]) -> FloatArray:
    """Variances in [0, 1/4] from `variance_to_uint16`."""
    return _values(stored, 0.0, MAX_VARIANCE, _UINT16_STEPS)


def log_variance_to_uint16(log_variance: NDArray[Any]) -> NDArray[np.uint16]:
    """Log-variances in [log 1e-4, log 1/4] in 65535 steps; values outside are clipped.

    Raises:
        StateError: on NaN or infinity.
    """
    return _steps(log_variance, *LOG_VARIANCE_RANGE, _UINT16_STEPS).astype(np.uint16)


def log_variance_from_uint16(stored: NDArray[np.uint16]) -> FloatArray:
    """Log-variances in [log 1e-4, log 1/4] from `log_variance_to_uint16`."""
    return _values(stored, *LOG_VARIANCE_RANGE, _UINT16_STEPS)


def share_to_int16(share: NDArray[Any]) -> NDArray[np.int16]:
    """Confidence or target probabilities in [0, 1] in steps of 1/10000; values outside are clipped.

    Raises:
        StateError: on NaN or infinity.
    """
    return _steps(share, 0.0, 1.0, SHARE_STEPS).astype(np.int16)


def share_from_int16(stored: NDArray[np.int16]) -> FloatArray:
    """Confidence or target probabilities in [0, 1] from `share_to_int16`.

    A threshold such as 0.7 comes back as the float32 nearest to it, so that c >= tau holds for c = tau.
    """
    return _values(stored, 0.0, 1.0, SHARE_STEPS)


def _steps(values: NDArray[Any], low: float, high: float, steps: int) -> FloatArray:
    if not np.isfinite(values).all():
        raise StateError("cannot store NaN or infinite values; the network or the image of this case is broken.")
    share = (np.clip(values.astype(np.float32), low, high) - np.float32(low)) / np.float32(high - low)
    rounded: FloatArray = np.rint(np.clip(share, 0, 1) * np.float32(steps))
    return rounded


def _values(stored: NDArray[Any], low: float, high: float, steps: int) -> FloatArray:
    # a division, since the product with a rounded 1/steps would miss the nearest float32
    share = stored.astype(np.float32) / np.float32(steps)
    values: FloatArray = np.clip(share * np.float32(high - low) + np.float32(low), np.float32(low), np.float32(high))
    return values
