"""Scores of every pool case, and the order in which they enter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from nnunet_ssl.confidence.case_scores import all_scores
from nnunet_ssl.confidence.curriculum import RankedCase, rank_cases
from nnunet_ssl.config import CASE_SCORES, CurriculumConfig, EvidenceConfig
from nnunet_ssl.data.ranking_file import RankingLine
from nnunet_ssl.pseudolabel.pool_labels import CaseLabels, PoolLabels, confident_voxels


@dataclass(frozen=True)
class PoolCaseScores:
    """All scores of one case, and what is predicted in it."""

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
        present = [name for name, region in zip(class_names, evidence.predicted_labels(), strict=True) if region.any()]
    else:
        present = [class_names[k] for k in np.unique(evidence.predicted_labels()) if k > 0]
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


def ranking_lines(ranking: Sequence[RankedCase], scored: Sequence[PoolCaseScores], entered: Mapping[str, int]) -> list[RankingLine]:
    """The pool in its order, with what is known of every case.

    Args:
        ranking: best first.
        scored: scores of the same cases.
        entered: stage at which a case enters, for those that have.
    """
    by_case = {s.case: s for s in scored}
    return [
        RankingLine(
            rank=ranked.rank,
            case=ranked.case,
            score=ranked.score,
            stage=entered.get(ranked.case),
            listed_for_review=ranked.listed_for_review,
            stratum=ranked.stratum,
            scores=by_case[ranked.case].scores,
            foreground_voxels=by_case[ranked.case].foreground_voxels,
            confident_share=by_case[ranked.case].confident_share,
            group=ranked.group,
        )
        for ranked in ranking
    ]
