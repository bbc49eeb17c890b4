"""Does a case score rank cases as their true Dice does? Measured on held-out cases; a refuted ranking is worse than a random order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nnunet_ssl.confidence.case_bootstrap import (
    LEAST_CASES,
    CommonCases,
    common_cases,
    defined_resamples,
    resample_cases,
    values_of_all_cases,
)
from nnunet_ssl.confidence.score_choice import BASELINES, choose_case_score
from nnunet_ssl.confidence.selective import (
    augrc,
    aurc,
    less_means,
    random_augrc,
    random_aurc,
    share_of_orders,
    spearman,
    spearman_of_resamples,
    unscored_last,
)
from nnunet_ssl.errors import StateError

Verdict = Literal["proven", "unproven", "refuted"]
LEVEL = 0.05
"""Two-sided; the interval of a score that was fixed beforehand holds 95 %."""


@dataclass(frozen=True, kw_only=True)
class RankingProof:
    """What held-out cases say of one score.

    Rank correlation, interval and verdict are of the cases that have the score, within strata, where there are any: only there does the
    curriculum rank by a score. The areas are of all held-out cases with a Dice together, so that those of different scores can be compared.
    """

    score: str
    """Name of the score."""
    num_cases: int
    """Held-out cases with a Dice and this score whose stratum has another such case."""
    num_unscored: int
    """Held-out cases with a Dice and without this score; the verdict does not judge them, the areas have them in last place."""
    num_alone: int
    """Held-out cases with a Dice and this score that are alone in their stratum; the verdict does not judge them."""
    spearman: float | None
    """Rank correlation with the true Dice in the `num_cases`, both less their means over the stratum; None where it is not defined."""
    interval: tuple[float, float] | None
    """Percentile bootstrap interval of it over cases: 95 %, of a score that was chosen among n 1 - 5 % / n; None where there is none."""
    aurc: float | None
    """Area under the risk-coverage curve of all cases with a Dice, the loss being 1 - Dice; less is better. Cases without this
    score come last, in no order among themselves. None where no case has it."""
    augrc: float | None
    """The same for the generalised risk."""
    random_aurc: float | None
    """Expected `aurc` of a random order of all these cases, the same for every score; None where no case has a Dice."""
    random_augrc: float | None
    """The same for `augrc`."""
    verdict: Verdict
    """`proven`: the interval lies above 0; `refuted`: below 0; `unproven`: neither, or there is none, or chance could do as much."""
    reason: str
    """Why, in a sentence for the log."""


@dataclass(frozen=True, kw_only=True)
class RankingChoice:
    """The proofs of all scores, baselines among them, and the score that is to rank the pool."""

    proofs: Mapping[str, RankingProof]
    """By name of the score."""
    chosen: str
    """Name of the score to use."""
    reason: str
    """Why this one, in a sentence for the log."""

    @property
    def verdict(self) -> Verdict:
        """Verdict on the chosen score."""
        return self.proofs[self.chosen].verdict


def prove_ranking(
    scores: Mapping[str, Mapping[str, float | None]],
    dice: Mapping[str, float],
    *,
    in_use: str = "pairwise_dice",
    strata: Mapping[str, str] | None = None,
    may_choose: bool = True,
    seed: int = 0,
) -> RankingChoice:
    """Prove every score on the held-out cases and choose the one to use.

    A score that is chosen by the cases that prove it, in place of the one in use, is proven at the level divided by the number of scores
    among which it was chosen (Bonferroni).

    Args:
        scores: by name of the score, then by case; None or NaN where a case has no such score. `softmax` is a baseline.
        dice: true Dice by held-out case in [0, 1]; a case with NaN (no foreground in truth and prediction) counts for nothing.
        in_use: the score that ranks unless another is better, see `choose_case_score`.
        strata: of every held-out case, see `prove_score`.
        may_choose: whether another may; else the one in use is kept, whatever the cases say.
        seed: of the resamples.

    Raises:
        StateError: if the score in use was not measured, or a Dice lies outside [0, 1].
    """
    if in_use not in scores:
        raise StateError(f"the case score in use is '{in_use}', but held-out cases have only: {', '.join(sorted(scores)) or 'none'}.")
    proofs = {name: prove_score(name, scores[name], dice, strata=strata, seed=seed) for name in sorted(scores)}
    if not may_choose:
        return RankingChoice(proofs=proofs, chosen=in_use, reason=f"{in_use} ranks: held-out cases decide nothing here.")
    chosen, reason = choose_case_score(scores, dice, in_use=in_use, strata=strata, seed=seed)
    if chosen != in_use:
        among = len(set(scores) - set(BASELINES))
        proofs[chosen] = prove_score(chosen, scores[chosen], dice, strata=strata, seed=seed, level=LEVEL / among)
    return RankingChoice(proofs=proofs, chosen=chosen, reason=reason)


def prove_score(
    name: str,
    scores: Mapping[str, float | None],
    dice: Mapping[str, float],
    *,
    strata: Mapping[str, str] | None = None,
    seed: int = 0,
    level: float = LEVEL,
) -> RankingProof:
    """Prove one score; cases are the unit, those with the score for the verdict and all of them for the areas.

    Within a stratum (cases with the same predicted classes, of the same group) the curriculum ranks by the score, between strata it does
    not. Score and Dice are means over the classes of a case, so that strata differ in both whatever the score is worth: their means are
    taken off, and a case that is alone in its stratum says nothing.

    Resamples in which the scores or the Dice are constant have no rank correlation and are left out; where they are more than half, or
    fewer than 4 cases are left, there is no interval and the score is unproven. The interval alone says too much of few cases (four in
    perfect order have one from 1 to 1) and of many with the same Dice: no more than 2.5 % of all orders may have such a correlation, too,
    which four cases never reach, nor do strata that hold few orders (three pairs of cases have eight). Resamples and orders are drawn
    within strata. A score that was fixed beforehand and means nothing comes out as proven in 0.8 % of all orders of five
    cases, in 1.7 % of six and in 1.8 to 2.7 % of simulated data sets with 7 to 20.

    Args:
        name: of the score.
        scores: by case; None or NaN where a case has none.
        dice: true Dice by held-out case in [0, 1], or NaN.
        strata: by case; None: all cases are of one.
        seed: of the resamples.
        level: two-sided.

    Raises:
        StateError: if a Dice lies outside [0, 1].
    """
    common = common_cases(dice, scores, strata=strata)
    (truth, own), stratum = common
    dice_of_all, scores_of_all = values_of_all_cases(dice, scores)
    losses, order, num_scored = 1 - dice_of_all, unscored_last(scores_of_all), int(np.isfinite(scores_of_all).sum())
    rho = spearman(own, truth, stratum)
    interval, why = _interval(common, seed, level)
    verdict = _verdict(interval)
    if interval is not None:
        side = {"proven": "lies above", "refuted": "lies below", "unproven": "includes"}[verdict]
        of = f"rank correlation {rho:.2f} in {len(truth)} held-out cases"
        why = f"{of}, {100 * (1 - level):.3g} % interval {interval[0]:.2f} to {interval[1]:.2f} {side} 0"
    if verdict != "unproven" and (chance := share_of_orders(own, truth, stratum)) > level / 2:
        verdict = "unproven"
        why = f"rank correlation {rho:.2f} in {len(truth)} held-out cases, which {100 * chance:.1f} % of all orders reach by chance"
    return RankingProof(
        score=name,
        num_cases=len(truth),
        num_unscored=len(losses) - num_scored,
        num_alone=num_scored - len(truth),
        spearman=rho,
        interval=interval,
        aurc=aurc(order, losses) if num_scored else None,
        augrc=augrc(order, losses) if num_scored else None,
        random_aurc=random_aurc(losses) if len(losses) else None,
        random_augrc=random_augrc(losses) if len(losses) else None,
        verdict=verdict,
        reason=f"{name} is {verdict}: {why}.",
    )


def _interval(common: CommonCases, seed: int, level: float) -> tuple[tuple[float, float] | None, str]:
    """Bootstrap interval of the rank correlation, or None and why there is none."""
    (truth, own), stratum = common
    if len(truth) < LEAST_CASES:
        return None, f"too few held-out cases with score and Dice, {len(truth)} where {LEAST_CASES} are needed"
    for what, values in (("score", own), ("true Dice", truth)):
        if np.ptp(less_means(values, stratum)) == 0:
            within = " of a stratum" if np.ptp(stratum) else ""
            return None, f"the {what} is the same in all {len(truth)} held-out cases{within}"
    correlations = defined_resamples(spearman_of_resamples(own, truth, resample_cases(stratum, seed), stratum))
    if correlations is None:
        return None, f"too many of the {len(truth)} held-out cases have the same score or Dice"
    low, high = (float(q) for q in np.quantile(correlations, (level / 2, 1 - level / 2)))
    return (low, high), ""


def _verdict(interval: tuple[float, float] | None) -> Verdict:
    if interval is None or interval[0] <= 0 <= interval[1]:
        return "unproven"
    return "proven" if interval[0] > 0 else "refuted"
