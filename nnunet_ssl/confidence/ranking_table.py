"""How well each score orders held-out cases, beside the baseline and a random order, as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from nnunet_ssl.confidence.score_choice import BASELINES


class RankingRow(NamedTuple):
    """One order of the held-out cases; None where a figure is not defined."""

    name: str
    """What orders them: a score, marked where it was chosen or is a baseline, or chance."""
    spearman: float | None
    """Rank correlation with the true Dice, of the cases that have the score."""
    aurc: float | None
    """Area under the risk-coverage curve, of all held-out cases with a Dice; less is better."""
    augrc: float | None
    """The same for the generalised risk."""


def ranking_rows(ranking: Mapping[str, Any]) -> tuple[RankingRow, ...]:
    """The scores by name, then the baselines, then the expectation of a random order.

    Args:
        ranking: a `RankingChoice` as `asdict` and `held_out.json` have it; a figure that a proof lacks is not defined.

    Raises:
        KeyError: if there is no proof of the chosen score.
        TypeError, ValueError: if a figure is no number.
    """
    proofs, chosen = ranking["proofs"], ranking["chosen"]
    names = sorted(proofs, key=lambda name: (name in BASELINES, name))
    rows = [RankingRow(_title(name, chosen), *(_figure(proofs[name], key) for key in ("spearman", "aurc", "augrc"))) for name in names]
    by_chance = (_figure(proofs[chosen], key) for key in ("random_aurc", "random_augrc"))
    return (*rows, RankingRow("random order", None, *by_chance))


def _title(name: str, chosen: str) -> str:
    if name == chosen:
        return f"{name} (chosen)"
    return f"{name} (baseline)" if name in BASELINES else name


def _figure(proof: Mapping[str, Any], key: str) -> float | None:
    value = proof.get(key)
    return None if value is None else float(value)
