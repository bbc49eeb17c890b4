"""The calibration map: mean probabilities M1 to calibrated probabilities q, one monotone curve per head."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from nnunet_ssl.confidence.evidence import FloatArray
from nnunet_ssl.errors import StateError

Kind = Literal["identity", "temperature", "logistic", "isotonic"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Kinds of map, the least flexible first."""
LOGIT_LIMIT = 12.0
"""Logits are clipped to plus and minus this, probabilities to 6e-6 from 0 and 1: evidence is stored in steps of 1.5e-5."""


def clipped_logits(probabilities: NDArray[Any]) -> NDArray[np.float64]:
    """log(p / (1 - p)) of probabilities in [0, 1], clipped to [-LOGIT_LIMIT, LOGIT_LIMIT]; float64 of the same shape."""
    return np.asarray(np.clip(logit(probabilities.astype(np.float64)), -LOGIT_LIMIT, LOGIT_LIMIT))


@dataclass(frozen=True, kw_only=True)
class LogitLine:
    """The curve sigmoid(slope * logit + intercept): a temperature is slope 1 / T, the identity slope 1."""

    slope: float = 1.0
    """a > 0."""
    intercept: float = 0.0
    """b."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.slope) and self.slope > 0 and math.isfinite(self.intercept)):
            raise StateError(f"calibration line has slope {self.slope} and intercept {self.intercept}; they must be finite, the slope > 0.")

    def __call__(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities in (0, 1) at logits of any shape."""
        line = np.clip(self.slope * logits + self.intercept, -LOGIT_LIMIT, LOGIT_LIMIT)
        return np.asarray(expit(line), dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Knots:
    """A curve through knots, linear between them and constant beyond."""

    logits: tuple[float, ...]
    """Where the knots are, ascending."""
    probabilities: tuple[float, ...]
    """Their values in (0, 1), none lower than the one before."""

    def __post_init__(self) -> None:
        x, y = self.logits, self.probabilities
        ascending = all(a < b for a, b in itertools.pairwise(x)) and all(a <= b for a, b in itertools.pairwise(y))
        if not (x and len(x) == len(y) and ascending and all(map(math.isfinite, x)) and y[0] > 0 and y[-1] < 1):
            raise StateError(f"calibration knots are damaged: {len(x)} logits and {len(y)} probabilities that do not ascend within (0, 1).")

    def __call__(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities in (0, 1) at logits of any shape."""
        return np.interp(logits, self.logits, self.probabilities)


@dataclass(frozen=True, kw_only=True)
class CalibrationMap:
    """q_k = g_k(M1_k), for softmax heads divided by the sum over the heads. No q is exactly 0 or 1."""

    kind: Kind
    """What the curves are; of an `isotonic` map a head that could not be fitted is a line."""
    has_regions: bool
    """Whether the heads are regions (sigmoid), each of which stands alone, instead of classes (softmax)."""
    heads: tuple[LogitLine | Knots, ...]
    """g_k per head, nondecreasing."""

    def __post_init__(self) -> None:
        least = 1 if self.has_regions else 2
        if self.kind not in KINDS:
            raise StateError(f"calibration is of kind {self.kind!r}; expected one of {', '.join(KINDS)}.")
        if len(self.heads) < least:
            raise StateError(f"calibration has {len(self.heads)} heads; expected {least} or more.")
        if self.kind != "isotonic" and any(isinstance(head, Knots) for head in self.heads):
            raise StateError(f"calibration of kind '{self.kind}' has knots, which belong to 'isotonic'.")

    def one_vs_rest(self, mean: FloatArray) -> FloatArray:
        """g_k(M1_k), before softmax heads are normalised.

        Args:
            mean: M1, (H, ...) in [0, 1].

        Returns:
            Same shape, float32 in (0, 1).

        Raises:
            StateError: if the number of heads is another.
        """
        if len(mean) != len(self.heads):
            raise StateError(f"mean probabilities have {len(mean)} heads, the calibration {len(self.heads)}.")
        q = np.empty(mean.shape, dtype=np.float32)
        # one head at a time, since the curves work in float64
        for k, head in enumerate(self.heads):
            q[k] = head(clipped_logits(mean[k]))
        return q

    def apply(self, mean: FloatArray) -> FloatArray:
        """Calibrated probabilities q.

        Args:
            mean: M1, (H, ...) in [0, 1].

        Returns:
            Same shape, float32 in (0, 1); softmax heads sum to 1 over the heads.

        Raises:
            StateError: if the number of heads is another.
        """
        q = self.one_vs_rest(mean)
        return q if self.has_regions else q / q.sum(axis=0, keepdims=True)

    def to_dict(self) -> dict[str, Any]:
        """The map in JSON's types; `from_dict` gives the same map to the last bit."""
        return {"kind": self.kind, "has_regions": self.has_regions, "heads": [asdict(head) for head in self.heads]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> CalibrationMap:
        """The map that `to_dict` wrote.

        Raises:
            StateError: if it is not one.
        """
        try:
            if not isinstance(content["has_regions"], bool):
                raise ValueError(f"has_regions is {content['has_regions']!r}")
            heads = tuple(_head(head) for head in content["heads"])
            return cls(kind=content["kind"], has_regions=content["has_regions"], heads=heads)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StateError(f"this is no calibration map ({type(error).__name__}: {error}); calibrate again.") from error


def _head(content: Mapping[str, Any]) -> LogitLine | Knots:
    if "logits" in content:
        return Knots(**{name: tuple(float(value) for value in values) for name, values in content.items()})
    return LogitLine(**{name: float(value) for name, value in content.items()})
