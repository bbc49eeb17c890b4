"""The pool's cases with their scores, from a stage's ranking table."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunet_ssl.config import CASE_SCORES
from nnunet_ssl.data.files import cell_text
from nnunet_ssl.errors import StateError


@dataclass(frozen=True)
class ScoredCase:
    """One row of `ranking_<t>.csv`."""

    rank: int
    case: str
    score: float | None
    """The score that ranks; None: none could be given."""
    stage: int | None
    """Stage at which the case entered; None: not yet."""
    listed_for_review: bool
    stratum: str
    """Predicted classes, joined by `+`."""
    scores: Mapping[str, float | None]
    """All case scores by name."""
    foreground_voxels: int
    confident_share: float | None
    """Share of predicted-foreground voxels with confidence of at least tau."""
    group: str | None = None
    """Scanner, site or alike; None where the pool has no groups."""


def read_ranking(path: Path) -> tuple[ScoredCase, ...]:
    """Read a ranking table, first case of the curriculum first; empty where the file is missing.

    Raises:
        StateError: if it is not a ranking table.
    """
    if not path.is_file():
        return ()
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return tuple(_scored_case(row) for row in rows)
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise StateError(f"{path} is not a ranking table ({error!r}); run nnssl_pseudolabel again, or remove it.") from error


def _scored_case(row: Mapping[str, str]) -> ScoredCase:
    return ScoredCase(
        rank=int(row["rank"]),
        case=cell_text(row["case"]),
        score=_number(row["score"]),
        stage=int(row["stage"]) if row["stage"] else None,
        listed_for_review=row["review"] == "yes",
        stratum=cell_text(row["stratum"]),
        scores={name: _number(row[name]) for name in CASE_SCORES if name in row},
        foreground_voxels=int(row["foreground_voxels"]),
        confident_share=_number(row["confident_share"]),
        group=cell_text(row.get("group") or "") or None,
    )


def _number(text: str) -> float | None:
    return float(text) if text else None
