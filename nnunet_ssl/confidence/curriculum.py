"""The curriculum: in which order the pool's cases enter, and how many of them each stage takes (Eq. 8)."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import get_args

from nnunet_ssl.config import Order
from nnunet_ssl.errors import ConfigError, StateError


@dataclass(frozen=True, kw_only=True)
class RankedCase:
    """One case of the pool in its place."""

    case: str
    """Case id."""
    score: float | None
    """Case score C(x), or None where the case has none."""
    rank: int
    """Place in the curriculum; the first is 1, as in Eq. 8."""
    stratum: str
    """The stratum it was interleaved by, for instance its set of predicted classes."""
    listed_for_review: bool
    """Whether somebody should look at the case, since it has no score."""
    group: str | None = None
    """Scanner, site or alike, by which it was interleaved, too; None where the pool has no groups."""
    is_dropped: bool = False
    """Whether the order `drop-most-confident` leaves the case out of every stage."""


def rank_cases(
    scores: Mapping[str, float | None],
    strata: Mapping[str, str],
    order: str = "ranked",
    seed: int = 0,
    dropped_share: float = 0.0,
    *,
    groups: Mapping[str, str] | None = None,
) -> list[RankedCase]:
    """Order the pool.

    Within a stratum the better score comes first (ties by case id). Strata are interleaved so that every prefix holds of each stratum
    its exact share, rounded up or down: stage 1 must not be the easiest anatomy of one scanner. With groups that holds for the groups,
    and for the strata within each group. Cases without a score (None or not finite) come last, by case id, in every order.

    Args:
        scores: score of every case of the pool.
        strata: stratum of every case.
        order: `ranked`; `random`: a random order within the strata, interleaved alike, so that it differs from `ranked` by the score
            alone (every case draws a lot of its own, so that the others stay where they are when one comes or goes); `reverse`: `ranked`
            backwards; `all-at-once`: as `ranked`; `drop-most-confident`: as `ranked`, but the best cases, of which little is left to
            learn, come last and are marked as dropped.
        seed: of the random order.
        dropped_share: share of the scored cases that `drop-most-confident` drops, rounded down.
        groups: group of every case (scanner, site); None: there are none.

    Returns:
        All cases, first in the curriculum first. The same input gives the same order, however the mappings are sorted.

    Raises:
        ConfigError: on an unknown order.
        StateError: if a case has no stratum or, with groups, no group.
    """
    if order not in get_args(Order):
        raise ConfigError(f"curriculum order is {order!r}; expected one of {', '.join(get_args(Order))}.")
    if missing := sorted(set(scores) - set(strata)):
        raise StateError(f"case '{missing[0]}' has a score but no stratum ({len(missing)} such cases).")
    if groups is not None and (missing := sorted(set(scores) - set(groups))):
        raise StateError(f"case '{missing[0]}' has a score but no group ({len(missing)} such cases).")
    finite = {case: float(s) for case, s in scores.items() if s is not None and math.isfinite(s)}
    cases = sorted(finite, key=lambda case: (-finite[case], case))
    if order == "random":
        cases = sorted(finite, key=lambda case: _lot(case, seed))
    cases = _interleave(cases, strata, groups)
    if order == "reverse":
        cases.reverse()
    num_dropped = _share_of(dropped_share, len(cases)) if order == "drop-most-confident" else 0
    cases, dropped = cases[num_dropped:], cases[:num_dropped]
    cases += [*sorted(set(scores) - set(finite)), *dropped]
    return [
        RankedCase(
            case=case,
            score=finite.get(case),
            rank=rank,
            stratum=strata[case],
            listed_for_review=case not in finite,
            group=None if groups is None else groups[case],
            is_dropped=case in dropped,
        )
        for rank, case in enumerate(cases, start=1)
    ]


def stage_size(fraction: float, num_cases: int) -> int:
    """Number of cases of a stage, n_t = max(1, floor(K_t N)).

    Args:
        fraction: K_t in (0, 1].
        num_cases: N, size of the pool.

    Raises:
        ConfigError: if the fraction is outside (0, 1].
        StateError: if the pool is empty.
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"curriculum fraction is {fraction!r}; expected a number in (0, 1].")
    if num_cases < 1:
        raise StateError("the pool has no cases to select from.")
    return min(num_cases, max(1, _share_of(fraction, num_cases)))


def select(ranking: Sequence[RankedCase], fraction: float) -> list[RankedCase]:
    """The cases of a stage: the first n_t of those that are not dropped, so that each stage contains the one before.

    Raises:
        ConfigError: if the fraction is outside (0, 1].
        StateError: if the ranking is empty.
    """
    kept = [ranked for ranked in ranking if not ranked.is_dropped]
    return kept[: stage_size(fraction, len(kept))]


def next_fraction(
    fractions: Sequence[float], stage: int, previous: float, change: float, *, max_change: float, stop_change: float
) -> float:
    """K_t of an adaptive schedule: labels that hardly change any more let more of the pool in.

    Between two stages the fraction grows by the mean step of the fixed schedule, times 2 (1 - change / max_change), at least half a
    step. Labels that have settled make the next stage the last, and so does the last stage of the fixed schedule.

    Args:
        fractions: K of the fixed schedule.
        stage: t, from 2.
        previous: K_{t-1} in force.
        change: share of the foreground voxels whose label changed since the stage before.
        max_change: change at which labels are refused.
        stop_change: change below which labels count as settled.

    Returns:
        K_t, at most the last of `fractions`.
    """
    last = fractions[-1]
    if stage >= len(fractions) or change < stop_change:
        return last
    step = (last - fractions[0]) / (len(fractions) - 1)
    pace = max(0.5, 2 * (1 - change / max_change)) if max_change > 0 else 0.5
    grown = previous + pace * step
    # 0.55 + 0.45 is 0.9999999999999999 in floating point: the whole pool, which would enter once more at a stage of its own
    return last if grown > last - 1e-6 else grown


def _share_of(share: float, num_cases: int) -> int:
    """Share of a number of cases, rounded down: 29 of 100 cases, though 0.29 * 100 is 28.999999999999996."""
    return math.floor(share * num_cases + 1e-6)


def _lot(case: str, seed: int) -> tuple[bytes, str]:
    """A case's place in a random order, whatever the other cases are."""
    return hashlib.sha256(f"{seed}:{case}".encode()).digest(), case


def _interleave(cases: Sequence[str], strata: Mapping[str, str], groups: Mapping[str, str] | None) -> list[str]:
    """Merge the strata of an ordered list, within each group, then the groups."""
    position = {case: i for i, case in enumerate(cases)}
    queues: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for case in cases:
        queues["" if groups is None else groups[case]][strata[case]].append(case)
    return _merge([_merge(list(of_group.values()), position) for of_group in queues.values()], position)


def _merge(queues: Sequence[Sequence[str]], position: Mapping[str, int]) -> list[str]:
    """Merge lists so that at each place m every list s, of n_s cases, is less than one case off its share m n_s / N.

    Tijdeman's solution of the chairman assignment problem (1980): of the lists that are due, take the one that would be overdue first.
    All numbers are times N (2 S - 2), hence exact. Of equals the one whose next case has the earlier position is taken.
    """
    if len(queues) < 2:
        return [case for queue in queues for case in queue]
    total, scale = sum(map(len, queues)), 2 * len(queues) - 2
    taken = [0] * len(queues)
    merged: list[str] = []
    for place in range(1, total + 1):
        lag = [scale * (place * len(queue) - done * total) for queue, done in zip(queues, taken, strict=True)]
        due = [s for s in range(len(queues)) if lag[s] >= total]
        chosen = min(due, key=lambda s: (Fraction(total * (scale - 1) - lag[s], len(queues[s])), position[queues[s][taken[s]]]))
        merged.append(queues[chosen][taken[chosen]])
        taken[chosen] += 1
    return merged
