"""What the audit says of each group (scanner, site) of the pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_ssl.confidence.predicted_dice import DicePrediction, PredictedMean
from nnunet_ssl.pseudolabel.domain_shift import Shift, compare

Features = Mapping[str, Sequence[float | None]]


@dataclass(frozen=True, kw_only=True)
class GroupAudit:
    """One group of pool cases."""

    group: str
    num_cases: int
    scores: tuple[float, float, float] | None
    """Quartiles of the case score; None where no case has one."""
    predicted: PredictedMean | None
    """Predicted mean Dice of its labels; None where it cannot be predicted."""
    shifts: list[Shift]
    """Against all labelled cases; p is corrected for the number of features and of groups."""


def audit_groups(
    groups: Sequence[str], labelled: Features, pool: Features, scores: Sequence[float | None], prediction: DicePrediction | None
) -> list[GroupAudit]:
    """Judge every group by its name.

    Args:
        groups: of the pool cases, in their order.
        labelled: per feature, the values of the labelled cases.
        pool: per feature, the values of the pool cases.
        scores: of the pool cases, as held-out cases have them.
        prediction: of the Dice from such a score, if there is one.
    """
    names = sorted(set(groups))
    found = []
    for name in names:
        places = [i for i, group in enumerate(groups) if group == name]
        own = [scores[i] for i in places]
        known = [score for score in own if score is not None]
        quartiles = np.quantile(known, (0.25, 0.5, 0.75)) if known else None
        features = {feature: [values[i] for i in places] for feature, values in pool.items()}
        found.append(
            GroupAudit(
                group=name,
                num_cases=len(places),
                scores=None if quartiles is None else (float(quartiles[0]), float(quartiles[1]), float(quartiles[2])),
                predicted=None if prediction is None else prediction.mean_of_pool(own),
                shifts=compare(labelled, features, num_comparisons=len(names)),
            )
        )
    return found
