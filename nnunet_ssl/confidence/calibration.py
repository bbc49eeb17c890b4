"""Calibration from held-out cases: which kind of map, by leave-one-case-out, and how far it can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.confidence.calibration_fit import fit_map, unfitted_heads
from nnunet_ssl.confidence.calibration_map import KINDS, CalibrationMap, Kind
from nnunet_ssl.confidence.evidence import Evidence, FloatArray
from nnunet_ssl.confidence.foreground_band import foreground_band
from nnunet_ssl.confidence.held_out import CaseShares, HeldOutCounts, case_shares
from nnunet_ssl.confidence.reliability import brier_score, curves, error_of_table, reliability_table
from nnunet_ssl.errors import StateError

MIN_CASES = 4
"""Held-out cases without which nothing is calibrated."""
MIN_CASES_ISOTONIC = 10
"""Held-out cases from which the isotonic map is a candidate."""


class BrierScore(NamedTuple):
    """Leave-one-case-out Brier score of one kind of map."""

    mean: float
    """Mean over the cases, lower is better."""
    standard_error: float
    """Standard error of its paired difference, case by case, to the chosen kind; 0 for that itself."""


class LeftOut(NamedTuple):
    """What a kind of map does on the cases that it was not fitted on, by case id."""

    brier: dict[str, float]
    tables: dict[str, NDArray[np.float64]]
    """Reliability tables, (3, H, E)."""
    maps: dict[str, CalibrationMap]
    """Each fitted to the other cases."""

    def replaced_by(self, other: LeftOut) -> LeftOut:
        """The same with what another kind of map does on its cases in place of this one."""
        return LeftOut({**self.brier, **other.brier}, {**self.tables, **other.tables}, {**self.maps, **other.maps})

    def error(self, *, has_regions: bool) -> float:
        """Expected calibration error over all of the cases."""
        return error_of_table(np.sum(list(self.tables.values()), axis=0), has_regions=has_regions)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The map of one teacher and what was measured on the way to it. Errors and scores are leave-one-case-out and one-vs-rest."""

    map: CalibrationMap | None
    """The chosen kind fitted to all cases, or None if there are too few."""
    reason: str
    """Why this map or none, one sentence for the log."""
    num_cases: int
    """Held-out cases with a labelled voxel in their foreground band."""
    brier: dict[str, BrierScore] = field(default_factory=dict)
    """By kind; empty without a map."""
    ece_before: float | None = None
    """Expected calibration error of M1 in [0, 1]; None without a map."""
    ece_after: float | None = None
    """The same after maps of the chosen kind, each measured on the case it was not fitted on; None without a map."""
    unfitted_heads: tuple[int, ...] = ()
    """Heads that keep their probabilities (under a temperature: take the others' one), for they have no positive or no negative voxel."""
    left_out: LeftOut | None = field(default=None, repr=False, compare=False)
    """Of the chosen kind; None without a map."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the cases one by one."""
        content = asdict(replace(self, map=None, left_out=None))
        del content["left_out"]
        return {**content, "map": None if self.map is None else self.map.to_dict()}


def fit_calibration(cases: Mapping[str, HeldOutCounts], *, has_regions: bool) -> Calibration:
    """Choose and fit the calibration map of a teacher.

    The identity, temperature and logistic maps are tried, from 10 cases on isotonic ones, too. From the identity on, a more flexible kind
    is chosen only if its leave-one-case-out Brier score is lower by more than one standard error of the paired differences, so that
    confidence is left as it is where cases ask for corrections that contradict each other. Every case has the
    same weight, however large; cases without a labelled voxel in their foreground band have nothing to say and do not count.

    Args:
        cases: held-out cases by id, that the teacher never saw.
        has_regions: whether the heads are regions.

    Raises:
        StateError: if the cases differ in the number of heads.
    """
    shares = case_shares(cases)
    num_cases = len(shares.names)
    if num_cases < MIN_CASES:
        reason = f"no calibration: {num_cases} held-out cases have predicted foreground and manual labels, at least {MIN_CASES} are needed."
        return Calibration(map=None, reason=reason, num_cases=num_cases)
    candidates = [kind for kind in KINDS if kind != "isotonic" or num_cases >= MIN_CASES_ISOTONIC]
    results = {kind: _leave_one_out(kind, shares, has_regions=has_regions) for kind in candidates}
    chosen = _choose(candidates, results)
    brier = {str(kind): _score_beside(result, results[chosen]) for kind, result in results.items()}
    unfitted = unfitted_heads(shares)
    return Calibration(
        map=fit_map(chosen, shares, np.ones(num_cases), has_regions=has_regions),
        reason=_reason(chosen, num_cases, brier, unfitted),
        num_cases=num_cases,
        brier=brier,
        ece_before=results["identity"].error(has_regions=has_regions),
        ece_after=results[chosen].error(has_regions=has_regions),
        unfitted_heads=unfitted,
        left_out=results[chosen],
    )


def calibrated(evidence: Evidence, calibration: CalibrationMap) -> FloatArray:
    """Calibrated probabilities of a case: the map inside the foreground band; outside it M1 as it is, since nothing was measured there.

    Returns:
        q, (H, *spatial) float32 in [0, 1].

    Raises:
        StateError: if the map is for other heads.
    """
    if calibration.has_regions != evidence.has_regions or len(calibration.heads) != len(evidence.mean):
        raise StateError(
            f"the calibration is for {_heads_in_words(len(calibration.heads), calibration.has_regions)}, "
            f"the evidence has {_heads_in_words(len(evidence.mean), evidence.has_regions)}."
        )
    band = foreground_band(evidence.foreground())
    q = evidence.mean.copy()
    q[:, band] = calibration.apply(evidence.mean[:, band])
    return q


def _leave_one_out(kind: Kind, shares: CaseShares, *, has_regions: bool) -> LeftOut:
    num_cases, num_heads, _ = shares.totals.shape
    left_out = LeftOut({}, {}, {})
    for i, name in enumerate(shares.names):
        others = (np.arange(num_cases) != i).astype(np.float64)
        fitted = fit_map(kind, shares, others, has_regions=has_regions)
        case = (shares.totals[i], shares.positives[i], curves(fitted, num_heads))
        left_out.brier[name] = brier_score(*case)
        left_out.tables[name] = reliability_table(*case)
        left_out.maps[name] = fitted
    return left_out


def _choose(candidates: list[Kind], results: Mapping[Kind, LeftOut]) -> Kind:
    chosen = candidates[0]
    for kind in candidates[1:]:
        gain = gains(results[kind], results[chosen])
        if gain.mean() > standard_error(gain):
            chosen = kind
    return chosen


def gains(one: LeftOut, other: LeftOut) -> NDArray[np.float64]:
    """How much lower the first one's Brier score is than the second one's, case by case of the first, (N,)."""
    return np.array([other.brier[case] - brier for case, brier in one.brier.items()])


def _score_beside(result: LeftOut, chosen: LeftOut) -> BrierScore:
    return BrierScore(float(np.mean(list(result.brier.values()))), standard_error(gains(result, chosen)))


def standard_error(differences: NDArray[np.float64]) -> float:
    """Of the mean of independent differences, (N,); N of at least two."""
    return float(differences.std(ddof=1)) / math.sqrt(len(differences))


def _reason(chosen: Kind, num_cases: int, brier: Mapping[str, BrierScore], unfitted: tuple[int, ...]) -> str:
    scores = ", ".join(f"{name} {score.mean:.5f}" for name, score in brier.items())
    rule = "a more flexible one is taken only where it is better by a standard error"
    reason = f"{chosen} map ({rule}); leave-one-case-out Brier on {num_cases} cases: {scores}"
    if unfitted:
        reason += f"; no curve of their own, for lack of positive or negative voxels, have the heads {', '.join(map(str, unfitted))}"
    return reason + "."


def _heads_in_words(number: int, has_regions: bool) -> str:
    return f"{number} {'regions' if has_regions else 'classes'}"
