"""What is known before any student is trained: how good the teacher is on cases it has not seen, and how far the pool can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch

from nnunet_ssl.confidence.predicted_dice import DicePrediction, PredictedMean, fit_dice_prediction
from nnunet_ssl.confidence.review import WEAK_DICE
from nnunet_ssl.config import Order
from nnunet_ssl.data.files import write_json
from nnunet_ssl.data.held_out_use import uses_held_out
from nnunet_ssl.locations import AUDIT_FILE
from nnunet_ssl.machines.engine import Engine
from nnunet_ssl.pseudolabel.domain_shift import Shift, compare, image_features
from nnunet_ssl.pseudolabel.gather import gather_held_out_evidence, gather_teacher_evidence
from nnunet_ssl.pseudolabel.group_audit import GroupAudit, audit_groups
from nnunet_ssl.pseudolabel.held_out_study import HeldOutStudy, study_held_out
from nnunet_ssl.pseudolabel.in_force import possible_score
from nnunet_ssl.pseudolabel.label_source import TEACHER_ALONE, labels_of
from nnunet_ssl.pseudolabel.ranking import PoolCaseScores, rank_pool, score_pool
from nnunet_ssl.pseudolabel.run import Run
from nnunet_ssl.pseudolabel.single_teachers import SingleTeachers, single_teachers
from nnunet_ssl.schemas import STUDY

NUM_TO_LABEL = 10
"""Cases named as the ones to label first."""
RANDOM_ORDER = ": give it --order random"
"""End of a reason that asks for another order."""
USELESS_DICE = 0.2
"""Held-out Dice below which pseudo-labels are noise."""

PREDICTED_VOXELS, CASE_SCORE = "predicted foreground, voxels", "case score {}"
"""Features of what single teachers make of an image, beside those of the image itself."""

Features = dict[str, Sequence[float | None]]
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
    decides = uses_held_out(run.method, run.fold)
    scored, score = _score(run, study, decides=decides)
    dice = {} if study is None else _class_dice(study)
    at_risk = [] if study is None else _at_risk(run, study, dice)
    singles = None if study is None else single_teachers(run, study)
    scores = [s.scores.get(score) for s in scored] if singles is None else singles.mean_scores
    labelled_features, pool_features = _features(run, study, singles)
    shifts = compare(labelled_features, pool_features)
    prediction = None if study is None else _prediction(study)
    of_pool = [run.manifest.groups[case] for case in run.pseudo_cases] if run.manifest.groups else []
    order = run.method.curriculum.order
    advice, reason = advise(study, dice, at_risk, shifts, decides=decides, order=order, has_stages=bool(run.manifest.stages))
    found = Audit(
        study=study,
        dice=dice,
        predicted=None if prediction is None else prediction.mean_of_pool(scores),
        at_risk=at_risk,
        shifts=shifts,
        label_first=_label_first(run, study, scored, score),
        advice=advice,
        reason=reason,
        groups=audit_groups(of_pool, labelled_features, pool_features, scores, prediction),
        accepted=len(run.accepted),
    )
    write_json(run.workspace / AUDIT_FILE, found.to_dict())
    return found


def advise(
    study: HeldOutStudy | None,
    dice: dict[str, tuple[float, int]],
    at_risk: Sequence[str],
    shifts: Sequence[Shift],
    *,
    decides: bool = True,
    order: Order = "ranked",
    has_stages: bool = False,
) -> tuple[Advice, str]:
    """What to do, by rules: useless labels stop, weak classes and images that look different ask for labels, all else goes on.

    Args:
        study: what held-out cases say.
        dice: held-out Dice by class, with the number of cases.
        at_risk: classes that are found badly.
        shifts: comparisons of labelled and pool images.
        decides: whether held-out cases decide in the run that follows.
        order: of the curriculum that was asked for.
        has_stages: whether a stage is written, so that its order is fixed.

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
        return "label first", f"the pool differs from the labelled cases ({shifted[0]}), so held-out figures may not hold for it"
    if study.ranking.verdict == "refuted" and order == "ranked":
        if decides:
            return "go on", "with cases in random order, since held-out cases refute the ranking"
        return "go on", "held-out cases refute the ranking, but decide nothing in this run" + ("" if has_stages else RANDOM_ORDER)
    return "go on", f"the held-out Dice is {mean:.2f} and nothing speaks against the pool"


def _score(run: Run, study: HeldOutStudy | None, *, decides: bool) -> tuple[list[PoolCaseScores], str]:
    """The pool with the labels and the score that the run would rank it by."""
    scored = score_pool(labels_of(run, TEACHER_ALONE, study if decides else None), run.pseudo_cases, run.method.student.fixed_tau)
    return scored, possible_score(run, run.method.evidence.case_score) if study is None else study.ranking.chosen


def _label_first(run: Run, study: HeldOutStudy | None, scored: Sequence[PoolCaseScores], score: str) -> list[str]:
    """The last of the ranking; where held-out cases refute it, so that its last places mean nothing, what has no score, then any cases."""
    order = "random" if study is not None and study.ranking.verdict == "refuted" else "ranked"
    method = run.method.with_settings({"evidence.case_score": score, "curriculum.order": order})
    ranking = rank_pool(scored, method.evidence, method.curriculum, run.manifest.groups)
    return [ranked.case for ranked in reversed(ranking)][:NUM_TO_LABEL]


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


def _features(run: Run, study: HeldOutStudy | None, singles: SingleTeachers | None) -> tuple[Features, Features]:
    """Images of all labelled cases against the pool's; of held-out cases and the pool what single teachers make of them."""
    labelled: Features = {**image_features(run.setup.data_folder, list(run.setup.labelled_cases), label="labelled images")}
    pool: Features = {**image_features(run.pool.folder, run.pseudo_cases, label="pool images")}
    if study is not None and singles is not None:
        score = study.ranking.chosen
        labelled[PREDICTED_VOXELS] = [float(case.foreground_voxels) for case in study.cases]
        pool[PREDICTED_VOXELS] = [float(voxels) for voxels in singles.foreground_voxels]
        labelled[CASE_SCORE.format(score)] = [case.scores.get(score) for case in study.cases]
        pool[CASE_SCORE.format(score)] = singles.scores
    return labelled, pool
