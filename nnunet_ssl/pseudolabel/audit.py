"""What is known before any student is trained: how good the teacher is on cases it has not seen, and how far the pool can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch

from nnunet_ssl.confidence.curriculum import RankedCase
from nnunet_ssl.confidence.predicted_dice import DicePrediction, PredictedMean, fit_dice_prediction
from nnunet_ssl.confidence.review import WEAK_DICE
from nnunet_ssl.data.files import write_json
from nnunet_ssl.locations import AUDIT_FILE
from nnunet_ssl.machines.engine import Engine
from nnunet_ssl.pseudolabel.domain_shift import Shift, compare, image_features
from nnunet_ssl.pseudolabel.gather import gather_held_out_evidence, gather_teacher_evidence
from nnunet_ssl.pseudolabel.group_audit import GroupAudit, audit_groups
from nnunet_ssl.pseudolabel.held_out_study import HeldOutStudy, study_held_out
from nnunet_ssl.pseudolabel.in_force import possible_score
from nnunet_ssl.pseudolabel.label_source import TEACHER_ALONE, labels_of
from nnunet_ssl.pseudolabel.manual_labels import manual_label
from nnunet_ssl.pseudolabel.ranking import ScoredCase, rank_pool, score_pool
from nnunet_ssl.pseudolabel.run import Run
from nnunet_ssl.schemas import STUDY

NUM_TO_LABEL = 10
"""Cases named as the ones to label first."""
USELESS_DICE = 0.2
"""Held-out Dice below which pseudo-labels are noise."""

Advice = Literal["go on", "label first", "stop"]


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Findings, and what to do."""

    study: HeldOutStudy | None
    """None where every teacher has seen every label."""
    dice: dict[str, tuple[float, int]]
    """Held-out Dice by class: mean, and number of cases that have one."""
    predicted: PredictedMean | None
    """Predicted mean Dice of the pool's labels; None where it cannot be predicted."""
    at_risk: list[str]
    """Classes that the teacher finds badly or not at all."""
    shifts: list[Shift]
    label_first: list[str]
    """Pool cases whose manual labels would probably help most: the worst-ranked ones, those to be reviewed first."""
    advice: Advice
    reason: str
    groups: list[GroupAudit] = field(default_factory=list)
    """Each group of the pool; empty where there are none."""
    accepted: int = 0
    """Pool cases whose manual labels have been accepted; they are not among those that are judged here."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, for `audit.json`."""
        content = {"schema": STUDY, **asdict(replace(self, study=None))}
        content["study"] = None if self.study is None else self.study.to_dict()
        return content


def audit(run: Run, *, device: torch.device, engine: Engine | None = None) -> Audit:
    """Gather the teacher's evidence on pool and held-out cases, study it and write `audit.json`; no stage is written.

    In fold mode the held-out cases are the fold's validation cases: they are looked at here, and decide nothing later.
    """
    gather_teacher_evidence(run, device, engine=engine)
    gather_held_out_evidence(run, device, engine=engine)
    study = study_held_out(run)
    scored, ranking = _rank(run, study)
    dice = {} if study is None else _class_dice(study)
    at_risk = [] if study is None else _at_risk(run, study, dice)
    labelled_features, pool_features = _features(run, scored)
    shifts = compare(labelled_features, pool_features)
    prediction = None if study is None else _prediction(study)
    scores = _scores_of_single_folds(run, study, scored)
    of_pool = [run.manifest.groups[case] for case in run.pseudo_cases] if run.manifest.groups else []
    to_label = [ranked.case for ranked in reversed(ranking)][:NUM_TO_LABEL]
    advice, reason = advise(study, dice, at_risk, shifts)
    found = Audit(
        study=study,
        dice=dice,
        predicted=None if prediction is None else prediction.mean_of_pool(scores),
        at_risk=at_risk,
        shifts=shifts,
        label_first=to_label,
        advice=advice,
        reason=reason,
        groups=audit_groups(of_pool, labelled_features, pool_features, scores, prediction),
        accepted=len(run.accepted),
    )
    write_json(run.workspace / AUDIT_FILE, found.to_dict())
    return found


def advise(
    study: HeldOutStudy | None, dice: dict[str, tuple[float, int]], at_risk: Sequence[str], shifts: Sequence[Shift]
) -> tuple[Advice, str]:
    """What to do, by rules: useless labels stop, weak classes and images that look different ask for labels, all else goes on.

    Args:
        study: what held-out cases say.
        dice: held-out Dice by class, with the number of cases.
        at_risk: classes that are found badly.
        shifts: comparisons of labelled and pool images.

    Returns:
        The advice and why, in a sentence.
    """
    if study is None:
        return (
            "go on",
            "nothing could be measured, for no label is known to be unseen by a teacher; cross-fitted teachers would tell more",
        )
    mean = float(np.mean([value for value, _ in dice.values()])) if dice else 0.0
    if mean < USELESS_DICE:
        return "stop", f"the held-out Dice is {mean:.2f}: train the teacher for longer or on more labels before it labels a pool"
    if at_risk:
        return "label first", f"in cases that it has not seen the teacher finds some classes badly: {', '.join(at_risk)}"
    if shifted := [shift.feature for shift in shifts if shift.is_shifted]:
        return "label first", f"pool images differ from the labelled ones ({shifted[0]}), so held-out figures may not hold for them"
    if study.ranking.verdict == "refuted":
        return "go on", "with cases in random order, since held-out cases refute the ranking"
    return "go on", f"the held-out Dice is {mean:.2f} and nothing speaks against the pool"


def _rank(run: Run, study: HeldOutStudy | None) -> tuple[list[ScoredCase], list[RankedCase]]:
    labels = labels_of(run, TEACHER_ALONE, study)
    scored = score_pool(labels, run.pseudo_cases, run.method.student.fixed_tau)
    score = possible_score(run, "pairwise_dice") if study is None else study.ranking.chosen
    method = run.method.with_settings({"evidence.case_score": score, "curriculum.order": "ranked"})
    return scored, rank_pool(scored, method.evidence, method.curriculum, run.manifest.groups)


def _class_dice(study: HeldOutStudy) -> dict[str, tuple[float, int]]:
    names = study.cases[0].dice
    known = {name: [value for case in study.cases if (value := case.dice[name]) is not None] for name in names}
    return {name: (float(np.mean(values)), len(values)) for name, values in known.items() if values}


def _at_risk(run: Run, study: HeldOutStudy, dice: dict[str, tuple[float, int]]) -> list[str]:
    blind = {run.setup.class_names[head] for head in study.blind}
    return [name for name, (value, _) in dice.items() if name in blind or value < WEAK_DICE]


def _prediction(study: HeldOutStudy) -> DicePrediction | None:
    """How the score that ranks foretells the Dice."""
    score = study.ranking.chosen
    return fit_dice_prediction([case.scores.get(score) for case in study.cases], [case.mean_dice for case in study.cases])


def _scores_of_single_folds(run: Run, study: HeldOutStudy | None, scored: Sequence[ScoredCase]) -> list[float | None]:
    """Scores of the pool as single folds give them, for held-out cases have no others; without a study those that rank."""
    score = possible_score(run, "pairwise_dice") if study is None else study.ranking.chosen
    labels = labels_of(run, TEACHER_ALONE, study)
    if study is None or len(labels.teacher) == 1:
        return [case.scores.get(score) for case in scored]
    per_fold = []
    for fold, store in labels.teacher.items():
        of_fold = score_pool(replace(labels, teacher={fold: store}), run.pseudo_cases, run.method.student.fixed_tau)
        per_fold.append([np.nan if (value := s.scores.get(score)) is None else value for s in of_fold])
    values = np.array(per_fold, dtype=np.float64)
    known = ~np.isnan(values).all(axis=0)
    means: list[float | None] = [None] * values.shape[1]
    for i in np.flatnonzero(known):
        means[i] = float(np.nanmean(values[:, i]))
    return means


def _features(run: Run, scored: Sequence[ScoredCase]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Images of all labelled cases against the pool's, and manual foreground, where a case is annotated as a whole, against predicted."""
    cases = list(run.setup.labelled_cases)
    labelled = image_features(run.setup.data_folder, cases, label="labelled images")
    pool = image_features(run.pool.folder, run.pseudo_cases, label="pool images")
    volume = "foreground, voxels"
    labelled[volume] = [_foreground_voxels(run, case) for case in cases]
    pool[volume] = [float(s.foreground_voxels) for s in scored]
    return labelled, pool


def _foreground_voxels(run: Run, case: str) -> float:
    """NaN for a case that is annotated in part: how much foreground it has, nobody knows."""
    label = manual_label(run.setup, case)
    if (label.nonzero & ~label.valid).any():
        return np.nan
    inside = label.truth.any(axis=0) if run.setup.has_regions else label.truth > 0
    return float((inside & label.valid).sum())
