"""Held-out cases of a teacher whose true probabilities are known, and how it distorts them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from nnunet_ssl.confidence.evidence import Evidence
from nnunet_ssl.confidence.held_out import HeldOutCounts, count_held_out

Array = NDArray[np.float64]
Distortion = Callable[[Array], Array]
"""True logits (H, *spatial) to the teacher's."""

SHAPE = (20, 20, 20)


class SimulatedCase(NamedTuple):
    """What the teacher says, what is true, and with which probability it was to become so."""

    evidence: Evidence
    truth: NDArray[np.int64] | NDArray[np.bool_]
    probabilities: Array

    def counts(self) -> HeldOutCounts:
        return count_held_out(self.evidence, self.truth, np.ones(SHAPE, dtype=bool))


def simulated_cases(
    distort: Distortion, *, num_cases: int, seed: int, has_regions: bool = False, num_structures: int = 2
) -> dict[str, SimulatedCase]:
    """Cases with one blurred ball per foreground class (region), whose labels are drawn voxel by voxel from the true probabilities."""
    rng = np.random.default_rng(seed)
    return {f"case{i:02d}": _simulated_case(distort, rng, has_regions, num_structures) for i in range(num_cases)}


def _simulated_case(distort: Distortion, rng: np.random.Generator, has_regions: bool, num_structures: int) -> SimulatedCase:
    grid = np.indices(SHAPE, dtype=np.float64)
    balls = []
    for _ in range(num_structures):
        distance = np.sqrt(((grid - rng.uniform(5, 15, size=3).reshape(3, 1, 1, 1)) ** 2).sum(axis=0))
        balls.append((rng.uniform(4, 6) - distance) / 1.5)
    logits = np.stack(balls if has_regions else [np.zeros(SHAPE), *balls])
    link = expit if has_regions else lambda x: softmax(x, axis=0)
    probabilities, mean = link(logits), link(distort(logits))
    if has_regions:
        truth = rng.random(logits.shape) < probabilities
    else:
        truth = (rng.random(SHAPE) > np.cumsum(probabilities, axis=0)[:-1]).sum(axis=0)
    evidence = Evidence(mean=mean, variance=mean * 0, votes=mean, num_samples=8, has_regions=has_regions)
    return SimulatedCase(evidence, truth, probabilities)
