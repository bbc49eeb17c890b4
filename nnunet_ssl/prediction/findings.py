"""What held-out cases of a model's run say about new cases: calibration, the score in force, predicted Dice, the limit for review."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnunet_ssl.confidence.calibration_map import CalibrationMap
from nnunet_ssl.confidence.case_scores import STAND_INS, Score
from nnunet_ssl.confidence.predicted_dice import DicePrediction, PredictedMean, fit_dice_prediction
from nnunet_ssl.confidence.review import review_limit
from nnunet_ssl.errors import StateError
from nnunet_ssl.locations import PREDICTIONS
from nnunet_ssl.prediction.origin import NO_RUN, Origin
from nnunet_ssl.prediction.study_files import find_study

DEFAULT_SCORE = STAND_INS["expected_dice"]
"""Takes the place of a score that needs calibrated probabilities."""
SINGLE_PASS_SCORE = STAND_INS["pairwise_dice"]
"""Takes the place of one that needs two samples."""
NONE_HELD_OUT = "its run has no held-out cases, for every teacher has seen every label"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What is known beforehand about a model's predictions."""

    maps: tuple[CalibrationMap, ...] | None
    """One per predicted fold; None: not calibrated."""
    is_borrowed: bool
    """Whether maps and relation are the teachers', and a student is predicted with."""
    calibration: str
    """Where the maps come from, or why there are none, in a clause."""
    score: str
    """Name of the case score in force."""
    teacher_effects: tuple[float, ...] = ()
    """What each predicted fold scores higher by than the teachers of the held-out cases, whatever the case; empty: nothing is known."""
    relation: DicePrediction | None
    """From the score to the Dice; None where held-out cases give none. A score below all of its held-out ones is reviewed."""
    limit: float | None
    """Predicted Dice below which a case is reviewed; None where there is no relation: no threshold."""
    ranking: str
    """What the relation rests on, or why there is none, in a clause."""
    audit_helps: bool = False
    """Whether `nnssl_run --audit` would tell more."""

    @property
    def state(self) -> str:
        """One word or two for the table: `calibrated`, `borrowed` or `not calibrated`."""
        if self.maps is None:
            return "not calibrated"
        return "borrowed" if self.is_borrowed else "calibrated"

    def comparable(self, scores: Sequence[Score]) -> list[Score]:
        """Scores of a case by the predicted folds, as held-out cases have theirs: without what tells one teacher from another."""
        effects = self.teacher_effects or (0.0,) * len(scores)
        pairs = zip(scores, effects, strict=True)
        return [score if score.value is None else Score(score.value - effect, score.reason) for score, effect in pairs]

    def predicted_dice(self, score: Score) -> PredictedMean | None:
        """Predicted Dice of one case with the 95 % interval of a single case."""
        return None if self.relation is None else self.relation.mean_of_pool([score.value])


def no_findings(reason: str, score: str, *, audit_helps: bool = False) -> Findings:
    """Nothing is known, for a reason; a case has its score all the same."""
    return Findings(
        maps=None,
        is_borrowed=False,
        calibration=reason,
        score=score,
        relation=None,
        limit=None,
        ranking=reason,
        audit_helps=audit_helps,
    )


def findings_of(origins: Sequence[Origin | str], folds: Sequence[int | str], num_samples: int, default_score: str) -> Findings:
    """What the runs of all predicted folds say together.

    Maps and scores belong to a number of samples: with dropout, or with fewer views, the mean of the probabilities and the agreement of
    the samples are others. With another number than the run's nothing of it applies.

    Args:
        origins: run of every fold, or why none is known.
        folds: of the model.
        num_samples: K asked for.
        default_score: score to use where held-out cases do not say.

    Raises:
        StateError: if a study on disk is damaged.
    """
    known = [origin for origin in origins if not isinstance(origin, str)]
    if unknown := [origin for origin in origins if isinstance(origin, str)]:
        return no_findings(unknown[0], default_score, audit_helps=set(unknown) == {NO_RUN})
    for origin in known:
        if origin.num_samples != num_samples:
            return no_findings(f"{num_samples} samples are asked for, the run's held-out cases have {origin.num_samples}", default_score)
    looked_at = [find_study(origin.workspace, origin.manifest.teacher_fingerprint) for origin in known]
    if any(found is None for found in looked_at):
        if any(origin.manifest.teacher_folds == ["all"] and found is None for origin, found in zip(known, looked_at, strict=True)):
            return no_findings(NONE_HELD_OUT, default_score)
        helps = all(origin.manifest.teacher_trainer != PREDICTIONS for origin in known)
        return no_findings("its run has not looked at held-out cases", default_score, audit_helps=helps)
    by_path = dict(found for found in looked_at if found is not None)
    studies = {path: study for path, study in by_path.items() if study is not None}
    if len(studies) < len(by_path):
        return no_findings(NONE_HELD_OUT, default_score)
    of_folds = [studies[found[0]] for found in looked_at if found is not None]
    try:
        return _combine(of_folds, list(studies.values()), known, folds)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        names = ", ".join(map(str, studies))
        raise StateError(f"{names} is no study of held-out cases ({error!r}); remove it and run nnssl_run --audit again.") from error


def _combine(
    of_folds: Sequence[Mapping[str, Any]],
    studies: Sequence[Mapping[str, Any]],
    origins: Sequence[Origin],
    folds: Sequence[int | str],
) -> Findings:
    is_borrowed = any(origin.is_student for origin in origins)
    maps = [_map_of(study, None if origin.is_student else fold) for study, origin, fold in zip(of_folds, origins, folds, strict=True)]
    fitted = tuple(found for found in maps if found is not None)
    is_calibrated = len(fitted) == len(maps)
    cases = [case for study in studies for case in study["cases"]]
    kinds = "/".join(sorted({found.kind for found in fitted}))
    chosen = {str(study["ranking"]["chosen"]) for study in studies}
    score = chosen.pop() if len(chosen) == 1 else DEFAULT_SCORE
    verdicts = {str(study["ranking"]["proofs"][score]["verdict"]) for study in studies}
    # the labels of a prediction are nnU-Net's, without calibration
    means = [case.get("plain_mean_dice", case["mean_dice"]) for case in cases]
    dice = [None if mean is None else float(mean) for mean in means]
    effects = [
        0.0 if origin.is_student else float(study.get("teacher_effects", {}).get(score, {}).get(str(fold), 0.0))
        for study, origin, fold in zip(of_folds, origins, folds, strict=True)
    ]
    relation = None if "refuted" in verdicts else fit_dice_prediction([case["scores"].get(score) for case in cases], dice)
    if relation is not None:
        ranking = f"{score} in {len(relation.scores)} held-out cases, as a ranking {'/'.join(sorted(verdicts))}"
    else:
        ranking = f"held-out cases refute {score}" if "refuted" in verdicts else f"{len(cases)} held-out cases are too few"
    return Findings(
        maps=fitted if is_calibrated else None,
        is_borrowed=is_borrowed,
        calibration=f"{kinds} map of {len(cases)} held-out cases" if is_calibrated else f"{len(cases)} held-out cases are too few",
        score=score,
        teacher_effects=tuple(effects),
        relation=relation,
        limit=None if relation is None else review_limit(relation.dice),
        ranking=ranking,
    )


def _map_of(study: Mapping[str, Any], fold: int | str | None) -> CalibrationMap | None:
    """The map of a teacher's fold, its own where it has one; of a student (None) the common one, which it borrows."""
    content = study["own_maps"].get(str(fold)) or study["calibration"]["map"]
    return None if content is None else CalibrationMap.from_dict(content)
