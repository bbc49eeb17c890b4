"""The table `ranking_<t>.csv`: the pool in the order in which it enters, with all scores; written by a stage and read by reports."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_ssl.config import CASE_SCORES
from nnunet_ssl.data.files import cell_text, write_csv
from nnunet_ssl.errors import StateError

COLUMNS = ("rank", "case", "score", "stage", "review", "stratum", "group", *CASE_SCORES, "foreground_voxels", "confident_share")
_REVIEW = "yes"


@dataclass(frozen=True)
class RankingLine:
    """One pool case, as a line of the table."""

    rank: int
    """From 1."""
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


def ranking_file(workspace: Path, stage: int) -> Path:
    """Where the ranking of a stage stands."""
    return workspace / f"ranking_{stage}.csv"


def write_ranking(path: Path, lines: Sequence[RankingLine]) -> None:
    """Write a ranking table, best case first."""
    rows = [
        {
            "rank": line.rank,
            "case": line.case,
            "score": _rounded(line.score),
            "stage": line.stage,
            "review": _REVIEW if line.listed_for_review else "",
            "stratum": line.stratum,
            "group": line.group,
            **{name: _rounded(value) for name, value in line.scores.items()},
            "foreground_voxels": line.foreground_voxels,
            "confident_share": _rounded(line.confident_share),
        }
        for line in lines
    ]
    write_csv(path, COLUMNS, rows)


def read_ranking(path: Path) -> tuple[RankingLine, ...]:
    """Read a ranking table, first case of the curriculum first; empty where the file is missing.

    Raises:
        StateError: if it is not a ranking table.
    """
    if not path.is_file():
        return ()
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return tuple(_line(row) for row in csv.DictReader(file))
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise StateError(f"{path} is not a ranking table ({error!r}); run nnssl_pseudolabel again, or remove it.") from error


def _line(row: Mapping[str, str]) -> RankingLine:
    return RankingLine(
        rank=int(row["rank"]),
        case=cell_text(row["case"]),
        score=_number(row["score"]),
        stage=int(row["stage"]) if row["stage"] else None,
        listed_for_review=row["review"] == _REVIEW,
        stratum=cell_text(row["stratum"]),
        scores={name: _number(row[name]) for name in CASE_SCORES if name in row},
        foreground_voxels=int(row["foreground_voxels"]),
        confident_share=_number(row["confident_share"]),
        group=cell_text(row.get("group") or "") or None,
    )


def _number(text: str) -> float | None:
    return float(text) if text else None


def _rounded(value: float | None) -> str | None:
    return None if value is None else f"{value:.6f}"
