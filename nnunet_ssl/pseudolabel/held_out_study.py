"""What labelled cases that their teacher has not seen say about its labels: calibration, thresholds, the ranking, blind classes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from nnunet_ssl.confidence.calibration import Calibration
from nnunet_ssl.confidence.calibration_map import CalibrationMap
from nnunet_ssl.confidence.case_scores import STAND_INS, softmax_maximum
from nnunet_ssl.confidence.case_under_map import evidence_under, scores_of
from nnunet_ssl.confidence.evidence import BoolArray, Evidence
from nnunet_ssl.confidence.fold_maps import fit_fold_maps
from nnunet_ssl.confidence.foreground_band import foreground_band
from nnunet_ssl.confidence.held_out import HeldOutCounts, count_held_out
from nnunet_ssl.confidence.prediction_counts import PredictionCounts, count_predictions
from nnunet_ssl.confidence.ranking_proof import RankingChoice, prove_ranking
from nnunet_ssl.confidence.teacher_effects import teacher_effects
from nnunet_ssl.confidence.thresholds import UnlearningGate, blind_classes, class_thresholds, unlearning_gate
from nnunet_ssl.data.held_out_use import uses_held_out
from nnunet_ssl.data.spread import spread
from nnunet_ssl.nnunet_api.preprocessed_case import open_segmentation
from nnunet_ssl.nnunet_api.region_labels import written_regions
from nnunet_ssl.pseudolabel.manual_labels import ManualLabel, manual_label
from nnunet_ssl.pseudolabel.run import Run
from nnunet_ssl.schemas import STUDY

logger = logging.getLogger(__name__)

MOST_COMPARED = 50
"""Pool cases by whose scores teachers are compared with each other."""


@dataclass(frozen=True, kw_only=True)
class HeldOutCase:
    """One labelled case and what the teacher that has not seen it makes of it."""

    case: str
    fold: int | str
    """Of the teacher."""
    dice: dict[str, float | None]
    """True Dice of the labels that the pool gets, by class (region) name: argmax q where held-out cases decide and calibrate, by a map that
    the case had no part in, else argmax M1. None where a class is neither in the truth nor in the prediction."""
    plain_dice: dict[str, float | None]
    """The same of argmax M1, which is as good as what nnU-Net's own prediction labels."""
    foreground_voxels: int
    """Voxels that the pool's labels would have as foreground."""
    scores: dict[str, float | None]
    """Case scores under the same map by name, with the baseline `softmax`, less what the teacher scores higher by than the others
    (`teacher_effects`). The ranking is proven by the scores that the pool gets: without a map where held-out cases decide nothing."""

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

    teacher_fingerprint: str
    """Of the teacher's checkpoints and number of samples, as in the manifest: what is measured here holds for no other."""
    cases: tuple[HeldOutCase, ...]
    calibration: Calibration
    """Over the held-out cases of all folds together."""
    maps: dict[int | str, CalibrationMap] | None
    """Map of every fold's teacher, its own or the common one; None where there are too few cases in all."""
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
    teacher_effects: dict[str, dict[int | str, float]]
    """By case score, then fold: what that fold's teacher scores pool cases higher by than those with held-out cases do in the mean."""
    ranking: RankingChoice

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, for `held_out.json`."""
        return {
            "schema": STUDY,
            "teacher_fingerprint": self.teacher_fingerprint,
            "cases": [{**asdict(case), "mean_dice": case.mean_dice, "plain_mean_dice": case.plain_mean_dice} for case in self.cases],
            "calibration": self.calibration.to_dict(),
            "own_maps": {str(fold): self.maps[fold].to_dict() for fold in self.own_maps} if self.maps is not None else {},
            "tau": None if self.tau is None else list(self.tau),
            "gate": None if self.gate is None else self.gate.tolist(),
            "blind": list(self.blind),
            "untaught": {str(fold): names for fold, names in self.untaught.items()},
            "teacher_effects": {name: {str(fold): e for fold, e in effects.items()} for name, effects in self.teacher_effects.items()},
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
    found = fit_fold_maps(
        {fold: {case: counts[case] for case in cases} for fold, cases in run.held_out_cases.items()},
        run.manifest.teacher_folds,
        has_regions=run.setup.has_regions,
    )
    maps, untaught = found.maps, _untaught(run, counts)
    is_calibrated = maps is not None and uses_held_out(run.method, run.fold)
    effects = _teacher_effects(run, maps)
    effects_in_use = effects if is_calibrated or maps is None else _teacher_effects(run, None)
    cases, predictions, of_labels, in_use = [], {}, {}, {}
    for o in _observed(run):
        under, written, scores = _seen_under(run, found.without(o.case, o.fold), o.evidence, o.label.nonzero)
        of_labels[o.case] = _count(o, under, written) if is_calibrated else counts[o.case]
        of_case = _less_effects(scores, effects, o.fold)
        without_map = scores if is_calibrated or maps is None else _seen_under(run, None, o.evidence, o.label.nonzero)[2]
        in_use[o.case] = _less_effects(without_map, effects_in_use, o.fold)
        voxels = _foreground_voxels(under, written)
        cases.append(_held_out_case(run, o, of_labels[o.case], counts[o.case], voxels, of_case))
        if maps is not None:
            predictions[o.case] = _count_predictions(o, under, written)
    return HeldOutStudy(
        teacher_fingerprint=run.manifest.teacher_fingerprint,
        cases=tuple(cases),
        calibration=found.common,
        maps=maps,
        own_maps=found.own,
        tau=class_thresholds(predictions, precision=run.method.student.precision) if predictions else None,
        gate=unlearning_gate(predictions) if predictions else None,
        blind=blind_classes(of_labels, has_regions=run.setup.has_regions, untaught=_untaught_by_case(run, untaught)),
        untaught=untaught,
        teacher_effects=effects,
        ranking=_prove(run, cases, in_use, {case: _stratum(run, case, of_labels[case]) for case in of_labels}),
    )


def _seen_under(
    run: Run, fold_map: CalibrationMap | None, evidence: Evidence, nonzero: BoolArray
) -> tuple[Evidence, BoolArray | None, dict[str, float | None]]:
    """A case under a map: its evidence, regions as they are written, and all case scores with the baseline."""
    under = evidence_under(fold_map, evidence)
    written = written_regions(under.mean, run.setup)
    scores = scores_of(under, nonzero, is_calibrated=fold_map is not None, written=written)
    values = {name: score.value for name, score in scores.items()}
    return under, written, {**values, "softmax": softmax_maximum(evidence).value}


def _teacher_effects(run: Run, maps: Mapping[int | str, CalibrationMap] | None) -> dict[str, dict[int | str, float]]:
    """By case score, what each teacher scores higher by than those that have held-out cases; empty for a single teacher."""
    stores = run.teacher_stores()
    if len(stores) < 2:
        return {}
    of_folds: dict[str, dict[int | str, list[float | None]]] = {}
    for case in tqdm(spread(run.pseudo_cases, MOST_COMPARED), desc="comparing teachers"):
        nonzero = np.asarray(open_segmentation(run.pool.folder, case)[0]) >= 0
        for fold, store in stores.items():
            evidence = store.read(case, (run.setup.heads, *nonzero.shape))
            for name, value in _seen_under(run, None if maps is None else maps[fold], evidence, nonzero)[2].items():
                of_folds.setdefault(name, {each: [] for each in stores})[fold].append(value)
    return {name: teacher_effects(scores, among=run.held_out_cases) for name, scores in of_folds.items()}


def _less_effects(
    scores: Mapping[str, float | None], effects: Mapping[str, Mapping[int | str, float]], fold: int | str
) -> dict[str, float | None]:
    return {name: None if value is None else value - effects.get(name, {}).get(fold, 0.0) for name, value in scores.items()}


def _observed(run: Run) -> Any:
    """Held-out cases one by one, so that one is in memory at a time."""
    for fold, store in run.held_out_stores().items():
        for case in run.held_out_cases[fold]:
            label = manual_label(run.setup, case)
            yield _Observed(case, fold, store.read(case, (run.setup.heads, *label.nonzero.shape)), label)


def _count(observed: _Observed, evidence: Evidence, written: BoolArray | None) -> HeldOutCounts:
    """Histograms of the evidence, and the sizes and overlap of the labels that the pool would get by it."""
    return count_held_out(evidence, observed.label.truth, observed.label.judged(evidence.foreground()), written=written)


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


def _untaught_by_case(run: Run, untaught: Mapping[int | str, list[str]]) -> dict[str, list[int]]:
    """Heads that the teacher of a held-out case has not learned, for the cases of folds that lack any."""
    heads = {fold: [run.setup.class_names.index(name) for name in names] for fold, names in untaught.items()}
    return {case: of_fold for fold, of_fold in heads.items() for case in run.held_out_cases[fold]}


def _stratum(run: Run, case: str, counts: HeldOutCounts) -> str:
    """What the curriculum would rank a held-out case among: its group, where it has one, and its predicted classes."""
    heads = [k for k in np.flatnonzero(counts.predicted_voxels) if run.setup.has_regions or k > 0]
    return "+".join([run.manifest.groups.get(case, ""), *(run.setup.class_names[k] for k in heads)])


def _foreground_voxels(under: Evidence, written: BoolArray | None) -> int:
    labels = under.predicted_labels() if written is None else written
    found = labels.any(axis=0) if under.has_regions else labels > 0
    return int(found.sum())


def _held_out_case(
    run: Run, observed: _Observed, counts: HeldOutCounts, plain: HeldOutCounts, voxels: int, scores: dict[str, float | None]
) -> HeldOutCase:
    return HeldOutCase(
        case=observed.case,
        fold=observed.fold,
        dice=_dice_by_name(run, counts),
        plain_dice=_dice_by_name(run, plain),
        foreground_voxels=voxels,
        scores=scores,
    )


def _dice_by_name(run: Run, counts: HeldOutCounts) -> dict[str, float | None]:
    names = run.setup.foreground_names
    return {name: None if np.isnan(value) else float(value) for name, value in zip(names, counts.dice[-len(names) :], strict=True)}


def _count_predictions(observed: _Observed, under: Evidence, written: BoolArray | None) -> PredictionCounts:
    label, band = observed.label, foreground_band(observed.evidence.foreground())
    judged = label.judged(under.foreground())
    return count_predictions(under.mean, label.truth, judged, band, has_regions=under.has_regions, written=written)


def _prove(
    run: Run, cases: list[HeldOutCase], of_cases: Mapping[str, Mapping[str, float | None]], strata: Mapping[str, str]
) -> RankingChoice:
    """Prove the scores by which the run ranks its pool.

    Args:
        run: the run.
        cases: with their true Dice.
        of_cases: scores by case, then name: under the maps where the run uses them, else without.
        strata: by case.
    """
    names = sorted({name for scores in of_cases.values() for name in scores})
    scores = {name: {case: of_case.get(name) for case, of_case in of_cases.items()} for name in names}
    dice = {case.case: np.nan if case.mean_dice is None else case.mean_dice for case in cases}
    asked, decides = run.method.evidence.case_score, uses_held_out(run.method, run.fold)
    if asked == "expected_dice" and not decides:  # the labels of that run are not calibrated
        asked = STAND_INS[asked]
    return prove_ranking(scores, dice, in_use=_measured_score(asked, scores), strata=strata, may_choose=decides)


def _measured_score(asked: str, scores: Mapping[str, Mapping[str, float | None]]) -> str:
    """The score that is asked for, or what stands in for it where no held-out case has it."""
    score = asked
    while score in STAND_INS and all(value is None for value in scores.get(score, {}).values()):
        logger.warning("no held-out case has the score %s: %s takes its place", score, STAND_INS[score])
        score = STAND_INS[score]
    return score
