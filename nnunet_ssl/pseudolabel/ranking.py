"""Scores of every pool case, the order they enter in, and the table that shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from nnunet_ssl.confidence.case_scores import all_scores
from nnunet_ssl.confidence.curriculum import RankedCase, rank_cases
from nnunet_ssl.config import CASE_SCORES, CurriculumConfig, EvidenceConfig
from nnunet_ssl.data.files import write_csv
from nnunet_ssl.pseudolabel.pool_labels import CaseLabels, PoolLabels, confident_voxels

COLUMNS = ("rank", "case", "score", "stage", "review", "stratum", "group", *CASE_SCORES, "foreground_voxels", "confident_share")


@dataclass(frozen=True)
class PoolCaseScores:
    """What the ranking table says of one case."""

    case: str
    scores: dict[str, float | None]
    predicted: tuple[str, ...]
    """Names of the predicted classes (regions)."""
    foreground_voxels: int
    confident_share: float | None
    """Share of predicted-foreground voxels with confidence of at least tau."""

    @property
    def stratum(self) -> str:
        """Names of the predicted classes, joined by `+`; `none` where nothing is predicted."""
        return "+".join(self.predicted) or "none"


def score_pool_case(
    case: str, found: CaseLabels, class_names: Sequence[str], tau: float | tuple[float, ...], *, is_calibrated: bool = False
) -> PoolCaseScores:
    """All case scores of one case, side by side; `expected_dice` needs calibrated evidence."""
    evidence = found.evidence
    measured = all_scores(evidence, found.confidence, found.nonzero, evidence.mean if is_calibrated else None)
    scores = {name: measured.get(name) for name in CASE_SCORES}
    foreground = found.labels > 0
    confident = confident_voxels(found.confidence, evidence.predicted_labels(), tau)
    if evidence.has_regions:
        present = [name for name, region in zip(class_names, evidence.predicted_labels(), strict=True) if region[found.nonzero].any()]
    else:
        present = [class_names[k] for k in np.unique(evidence.predicted_labels()[found.nonzero]) if k > 0]
    voxels = int(foreground.sum())
    return PoolCaseScores(case, scores, tuple(present), voxels, float(confident[foreground].mean()) if voxels else None)


def score_pool(labels: PoolLabels, cases: Sequence[str], tau: float | tuple[float, ...]) -> list[PoolCaseScores]:
    """Score every case from stored evidence; nothing is predicted."""
    names = labels.setup.class_names
    return [
        score_pool_case(case, labels.labels(case), names, tau, is_calibrated=labels.is_calibrated)
        for case in tqdm(cases, desc="scoring the pool")
    ]


def confident_share(scored: Sequence[PoolCaseScores]) -> float:
    """Share of the predicted-foreground voxels of cases with confidence of at least tau; 0 where there are none."""
    voxels = sum(s.foreground_voxels for s in scored)
    confident = sum(s.foreground_voxels * s.confident_share for s in scored if s.confident_share is not None)
    return float(confident / voxels) if voxels else 0.0


def rank_pool(
    scored: Sequence[PoolCaseScores], evidence: EvidenceConfig, curriculum: CurriculumConfig, groups: Mapping[str, str] | None = None
) -> list[RankedCase]:
    """The pool in the order in which it enters, interleaved over groups, where there are any, and sets of predicted classes."""
    scores = {s.case: s.scores[evidence.case_score] for s in scored}
    order = "ranked" if curriculum.order == "all-at-once" else curriculum.order
    strata = {s.case: s.stratum for s in scored}
    return rank_cases(scores, strata, order=order, seed=curriculum.seed, dropped_share=curriculum.dropped_share, groups=groups or None)


def write_ranking(path: Path, ranking: Sequence[RankedCase], scored: Sequence[PoolCaseScores], entered: dict[str, int]) -> None:
    """Write `ranking_<t>.csv`.

    Args:
        path: the file.
        ranking: best first.
        scored: scores of the same cases.
        entered: stage at which a case enters, for those that have.
    """
    by_case = {s.case: s for s in scored}
    rows = []
    for ranked in ranking:
        case = by_case[ranked.case]
        rows.append(
            {
                "rank": ranked.rank,
                "case": ranked.case,
                "score": _rounded(ranked.score),
                "stage": entered.get(ranked.case),
                "review": "yes" if ranked.listed_for_review else "",
                "stratum": ranked.stratum,
                "group": ranked.group,
                **{name: _rounded(value) for name, value in case.scores.items()},
                "foreground_voxels": case.foreground_voxels,
                "confident_share": _rounded(case.confident_share),
            }
        )
    write_csv(path, COLUMNS, rows)


def _rounded(value: float | None) -> str | None:
    return None if value is None else f"{value:.6f}"
