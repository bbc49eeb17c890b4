"""Which case score ranks the pool: the one in use, unless held-out cases show that another ranks better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from nnunet_ssl.confidence.case_bootstrap import LEAST_CASES, common_cases, defined_resamples, resample_cases
from nnunet_ssl.confidence.selective import spearman, spearman_of_resamples

BASELINES = ("softmax",)
"""Scores that are measured for comparison and never chosen (see `case_scores.softmax_maximum`)."""


class PairedDifference(NamedTuple):
    """How much better one score's rank correlation with the true Dice is than another's, on the cases that have both."""

    difference: float
    standard_error: float
    """Standard deviation of the difference over resamples of the cases, both scores in the same ones."""


def choose_case_score(
    scores: Mapping[str, Mapping[str, float | None]],
    dice: Mapping[str, float],
    *,
    in_use: str = "pairwise_dice",
    strata: Mapping[str, str] | None = None,
    seed: int = 0,
) -> tuple[str, str]:
    """Keep the score in use unless another's rank correlation is better by more than one standard error of their paired difference.

    Of several such the one with the largest difference is taken, the first by name on ties. Baselines are not considered. Where a
    difference cannot be measured (fewer than 4 cases with both scores, constant values), the score in use stays.

    Args:
        scores: by name of the score, then by case; None or NaN where a case has no such score.
        dice: true Dice by held-out case in [0, 1], or NaN.
        in_use: name of the score in use.
        strata: by case; rank correlations are within them. None: all cases are of one.
        seed: of the resamples.

    Returns:
        Name of the score, and why in a sentence for the log.

    Raises:
        StateError: if a Dice lies outside [0, 1].
    """
    better: dict[str, PairedDifference] = {}
    for name in sorted(set(scores) - {in_use, *BASELINES}):
        found = paired_difference(scores[name], scores[in_use], dice, strata=strata, seed=seed)
        if found is not None and found.difference > found.standard_error:
            better[name] = found
    if not better:
        return in_use, f"{in_use} ranks: no other score is better by more than one standard error of the paired difference."
    name = max(better, key=lambda other: better[other].difference)
    gain, error = better[name]
    return name, f"{name} ranks instead of {in_use}: its rank correlation is better by {gain:.2f}, standard error {error:.2f}."


def paired_difference(
    scores: Mapping[str, float | None],
    reference: Mapping[str, float | None],
    dice: Mapping[str, float],
    *,
    strata: Mapping[str, str] | None = None,
    seed: int = 0,
) -> PairedDifference | None:
    """Spearman of `scores` with Dice minus that of `reference`; resamples in which one is not defined are left out.

    Args:
        scores: by case; None or NaN where a case has none.
        reference: by case, alike.
        dice: true Dice by held-out case in [0, 1], or NaN.
        strata: by case; None: all cases are of one.
        seed: of the resamples.

    Returns:
        None where fewer than 4 cases have both scores, a correlation is not defined, or is not in more than half of the resamples.

    Raises:
        StateError: if a Dice lies outside [0, 1].
    """
    (truth, own, other), stratum = common_cases(dice, scores, reference, strata=strata)
    if len(truth) < LEAST_CASES:
        return None
    own_rho, other_rho = spearman(own, truth, stratum), spearman(other, truth, stratum)
    if own_rho is None or other_rho is None:
        return None
    resamples = resample_cases(stratum, seed)
    own_rhos, other_rhos = (spearman_of_resamples(values, truth, resamples, stratum) for values in (own, other))
    differences = defined_resamples(own_rhos - other_rhos)
    return None if differences is None else PairedDifference(own_rho - other_rho, float(differences.std(ddof=1)))
