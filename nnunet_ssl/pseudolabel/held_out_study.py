"""What labelled cases that their teacher has not seen say about its labels: calibration, thresholds, the ranking, blind classes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from nnunet_ssl.confidence.calibration import Calibration, fit_calibration
from nnunet_ssl.confidence.calibration_map import CalibrationMap
from nnunet_ssl.confidence.case_scores import STAND_INS, Score, softmax_maximum
from nnunet_ssl.confidence.case_under_map import evidence_under, scores_of
from nnunet_ssl.confidence.evidence import BoolArray, Evidence
from nnunet_ssl.confidence.foreground_band import foreground_band
from nnunet_ssl.confidence.held_out import HeldOutCounts, count_held_out
from nnunet_ssl.confidence.prediction_counts import PredictionCounts, count_predictions
from nnunet_ssl.confidence.ranking_proof import RankingChoice, prove_ranking
from nnunet_ssl.confidence.thresholds import UnlearningGate, blind_classes, class_thresholds, unlearning_gate
from nnunet_ssl.nnunet_api.region_labels import written_regions
from nnunet_ssl.pseudolabel.manual_labels import ManualLabel, manual_label
from nnunet_ssl.pseudolabel.run import Run
from nnunet_ssl.schemas import STUDY

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class HeldOutCase:
    """One labelled case and what the teacher that has not seen it makes of it."""

    case: str
    fold: int | str
    """Of the teacher."""
    dice: dict[str, float | None]
    """True Dice of the labels that the pool gets, by class (region) name: with calibration argmax q. None where a class is neither in the
    truth nor in the prediction."""
    plain_dice: dict[str, float | None]
    """The same of argmax M1, which is as good as what nnU-Net's own prediction labels."""
    scores: dict[str, float | None]
    """Case scores by name, with the baseline `softmax`."""

    @property
    def mean_dice(self) -> float | None:
        """Mean over the classes that have a Dice; None where none has."""
        return _mean_of_known(self.dice)

    @property
    def plain_mean_dice(self) -> float | None:
        """The same of `plain_dice`."""
        return _mean_of_known(self.plain_dice)


def _mean_of_known(dice: Mapping[str, float | None]) -> float | None:
    known = [value for value in dice.values() if value is not None]
    return float(np.mean(known)) if known else None


@dataclass(frozen=True, kw_only=True)
class HeldOutStudy:
    """Everything measured on held-out cases."""

    cases: tuple[HeldOutCase, ...]
    calibration: Calibration
    """Over the held-out cases of all folds together."""
    maps: dict[int | str, CalibrationMap] | None
    """Map of every fold's teacher: its own where it has cases enough, else the common one; None where there are too few in all."""
    own_maps: tuple[int | str, ...]
    """Folds with a map of their own."""
    tau: tuple[float, ...] | None
    """Threshold per head that gives the wanted marginal precision; None without calibration."""
    gate: UnlearningGate | None
    """Where labels may be unlearned; None without calibration."""
    blind: tuple[int, ...]
    """Heads that the teachers hardly ever find in held-out cases that have them."""
    untaught: dict[int | str, list[str]]
    """By fold, classes (regions) that labelled cases have, but none of those that the fold's teacher was trained on."""
    ranking: RankingChoice

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, for `held_out.json`."""
        calibration = {k: v for k, v in asdict(replace(self.calibration, map=None)).items() if k != "map"}
        calibration["map"] = None if self.calibration.map is None else self.calibration.map.to_dict()
        return {
            "schema": STUDY,
            "cases": [{**asdict(case), "mean_dice": case.mean_dice, "plain_mean_dice": case.plain_mean_dice} for case in self.cases],
            "calibration": calibration,
            "own_maps": {str(fold): self.maps[fold].to_dict() for fold in self.own_maps} if self.maps is not None else {},
            "tau": None if self.tau is None else list(self.tau),
            "gate": None if self.gate is None else self.gate.tolist(),
            "blind": list(self.blind),
            "untaught": {str(fold): names for fold, names in self.untaught.items()},
            "ranking": asdict(self.ranking),
        }


@dataclass(frozen=True)
class _Observed:
    """A held-out case as it is looked at twice: before and after its map is known."""

    case: str
    fold: int | str
    evidence: Evidence
    label: ManualLabel


def study_held_out(run: Run) -> HeldOutStudy | None:
    """Study the stored evidence on held-out cases; None where every teacher has seen every label.

    Raises:
        StateError: if evidence of a held-out case is missing.
    """
    if not run.held_out_cases:
        return None
    counts = {o.case: _count(o, o.evidence, written_regions(o.evidence.mean, run.setup)) for o in _observed(run)}
    common = fit_calibration(counts, has_regions=run.setup.has_regions)
    own = _own_maps(run, counts)
    maps = None if common.map is None else {fold: own.get(fold, common.map) for fold in run.manifest.teacher_folds}
    cases, predictions, of_labels = [], {}, {}
    for o in _observed(run):
        under = evidence_under(None if maps is None else maps[o.fold], o.evidence)
        written = written_regions(under.mean, run.setup)
        of_labels[o.case] = counts[o.case] if maps is None else _count(o, under, written)
        scores = scores_of(under, o.label.nonzero, is_calibrated=maps is not None, written=written)
        cases.append(_held_out_case(run, o, of_labels[o.case], counts[o.case], scores))
        if maps is not None:
            predictions[o.case] = _count_predictions(o, under, written)
    return HeldOutStudy(
        cases=tuple(cases),
        calibration=common,
        maps=maps,
        own_maps=tuple(own),
        tau=class_thresholds(predictions, precision=run.method.student.precision) if predictions else None,
        gate=unlearning_gate(predictions) if predictions else None,
        blind=blind_classes(of_labels, has_regions=run.setup.has_regions),
        untaught=_untaught(run, counts),
        ranking=_prove(run, cases),
    )


def _observed(run: Run) -> Any:
    """Held-out cases one by one, so that one is in memory at a time."""
    for fold, store in run.held_out_stores().items():
        for case in run.held_out_cases[fold]:
            label = manual_label(run.setup, case)
            yield _Observed(case, fold, store.read(case, (run.setup.heads, *label.nonzero.shape)), label)


def _count(observed: _Observed, evidence: Evidence, written: BoolArray | None) -> HeldOutCounts:
    """Histograms of the evidence, and the sizes and overlap of the labels that the pool would get by it."""
    return count_held_out(evidence, observed.label.truth, observed.label.valid, written=written)


def _own_maps(run: Run, counts: Mapping[str, HeldOutCounts]) -> dict[int | str, CalibrationMap]:
    """Maps of the folds that have held-out cases enough of their own."""
    fits = {
        fold: fit_calibration({case: counts[case] for case in cases}, has_regions=run.setup.has_regions)
        for fold, cases in run.held_out_cases.items()
    }
    return {fold: fit.map for fold, fit in fits.items() if fit.map is not None}


def _untaught(run: Run, counts: Mapping[str, HeldOutCounts]) -> dict[int | str, list[str]]:
    """Classes that a fold lacks among its training cases; a fold with training cases that nobody holds out is not judged."""
    names, found = run.setup.class_names, {}
    wanted = np.any([case.true_voxels > 0 for case in counts.values()], axis=0)
    for fold in run.held_out_cases:
        train = run.setup.fold_cases(fold)[0]
        if set(train) <= set(counts):
            taught = np.any([counts[case].true_voxels > 0 for case in train], axis=0)
            if lacking := [names[head] for head in np.flatnonzero(wanted & ~taught)]:
                found[fold] = lacking
    return found


def _held_out_case(run: Run, observed: _Observed, counts: HeldOutCounts, plain: HeldOutCounts, scores: Mapping[str, Score]) -> HeldOutCase:
    return HeldOutCase(
        case=observed.case,
        fold=observed.fold,
        dice=_dice_by_name(run, counts),
        plain_dice=_dice_by_name(run, plain),
        scores={**{name: score.value for name, score in scores.items()}, "softmax": softmax_maximum(observed.evidence).value},
    )


def _dice_by_name(run: Run, counts: HeldOutCounts) -> dict[str, float | None]:
    names = run.setup.foreground_names
    return {name: None if np.isnan(value) else float(value) for name, value in zip(names, counts.dice[-len(names) :], strict=True)}


def _count_predictions(observed: _Observed, under: Evidence, written: BoolArray | None) -> PredictionCounts:
    label, band = observed.label, foreground_band(observed.evidence.foreground())
    return count_predictions(under.mean, label.truth, label.valid, band, has_regions=under.has_regions, written=written)


def _prove(run: Run, cases: list[HeldOutCase]) -> RankingChoice:
    names = sorted({name for case in cases for name in case.scores})
    scores = {name: {case.case: case.scores.get(name) for case in cases} for name in names}
    dice = {case.case: np.nan if case.mean_dice is None else case.mean_dice for case in cases}
    return prove_ranking(scores, dice, in_use=_measured_score(run.method.evidence.case_score, scores))


def _measured_score(asked: str, scores: Mapping[str, Mapping[str, float | None]]) -> str:
    """The score that is asked for, or what stands in for it where no held-out case has it."""
    score = asked
    while score in STAND_INS and all(value is None for value in scores.get(score, {}).values()):
        logger.warning("no held-out case has the score %s: %s takes its place", score, STAND_INS[score])
        score = STAND_INS[score]
    return score
