"""Grow the dataset by one stage: evidence, agreement, ranking, stage dataset, manifest; what is done already is not done again."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import numpy as np
import torch

from nnunet_ssl.confidence.curriculum import next_fraction, select
from nnunet_ssl.config import MethodConfig
from nnunet_ssl.data.files import remove_leftovers
from nnunet_ssl.data.held_out_use import uses_held_out
from nnunet_ssl.data.manifest import StageRecord
from nnunet_ssl.data.pseudo_case import PseudoCase
from nnunet_ssl.data.ranking_file import ranking_file, write_ranking
from nnunet_ssl.data.spread import spread
from nnunet_ssl.data.stage_dataset import stage_is_whole, write_stage
from nnunet_ssl.data.stage_sidecar import StageSidecar, read_sidecar
from nnunet_ssl.data.stage_size import NOTHING, frame_bytes, mean_of, pseudo_case_bytes
from nnunet_ssl.disk import require_free_together
from nnunet_ssl.errors import WRITE_AGAIN, SetupError, StateError
from nnunet_ssl.locations import STAGE_SIDECAR, preprocessed_root, raw_root, results_root, start_over
from nnunet_ssl.machines.engine import Engine
from nnunet_ssl.machines.part import WHOLE, Part
from nnunet_ssl.nnunet_api.label_classes import classes_in_labels
from nnunet_ssl.nnunet_api.preprocessing import load_properties
from nnunet_ssl.pseudolabel.gather import gather_held_out_evidence, gather_student_evidence, gather_teacher_evidence
from nnunet_ssl.pseudolabel.in_force import SettingsInForce, in_force
from nnunet_ssl.pseudolabel.label_change import ChangeReport
from nnunet_ssl.pseudolabel.label_source import LabelSource, choose_source, labels_of, source_of
from nnunet_ssl.pseudolabel.pool_labels import PoolLabels
from nnunet_ssl.pseudolabel.ranking import PoolCaseScores, confident_share, rank_pool, ranking_lines, score_pool
from nnunet_ssl.pseudolabel.run import Run
from nnunet_ssl.pseudolabel.student_start import resolve_start, teacher_mirroring
from nnunet_ssl.schemas import SIDECAR

logger = logging.getLogger(__name__)

LEAST_CONFIDENT = 0.05
"""Share of confident foreground voxels below which a stage teaches hardly anything."""

_MEASURED_CASES = 2
"""Cases of a stage whose files are made in memory first, to see how much room the stage needs."""


def grow(run: Run, *, device: torch.device, rescore: bool = False, engine: Engine | None = None) -> StageRecord:
    """Write the next stage.

    Args:
        run: the run, with its manifest.
        device: where networks predict.
        rescore: rank from stored evidence; missing evidence is an error instead of being gathered.
        engine: whose workers gather evidence; None: this process.

    Returns:
        The record of the stage, which also stands in the manifest.

    Raises:
        SetupError: if the previous student is not trained, or one before it is gone whose labels are still needed.
        StateError: if the curriculum is complete, another process changes the run or has changed it since it was opened, or with `rescore`
            evidence is missing.
    """
    with run.changing():
        return _grow(run, device=device, rescore=rescore, engine=engine)


def _grow(run: Run, *, device: torch.device, rescore: bool, engine: Engine | None) -> StageRecord:
    begun, stage = time.perf_counter(), run.next_stage
    if stage is None:
        raise StateError(f"the curriculum of {run.workspace} is complete: {len(run.manifest.stages)} stages are written.")
    if stage > 1:
        run.student_store(stage - 1)  # an error if that student is not trained, also where its evidence is not asked for
        _require_labels_before(run)
    for folder in (run.workspace, raw_root(), preprocessed_root()):
        remove_leftovers(folder)
    cases = run.pseudo_cases
    if not rescore:
        gather_all_evidence(run, device, cases, student_stage=labelling_student(run, stage), engine=engine)
        before = _student_before(run)
        if before is not None and before != labelling_student(run, stage):
            gather_student_evidence(run, before, device, cases, engine)
    now = in_force(run)
    source, change = choose_source(run, stage, now.study)
    labels = labels_of(run, source, now.study)
    scored = score_pool(labels, cases, now.method.student.fixed_tau)
    ranking = rank_pool(scored, now.method.evidence, now.method.curriculum, run.manifest.groups)
    fraction = stage_fraction(run, stage, change)
    chosen = [ranked.case for ranked in select(ranking, fraction)]
    _warn_of_missing_classes(run, chosen, scored)
    _warn_of_doubtful_labels(stage, [s for s in scored if s.case in set(chosen)])
    is_last = fraction == run.method.curriculum.fractions[-1]
    sidecar = stage_sidecar(run, stage, chosen, run.accepted, source, now, is_last=is_last)
    if not stage_is_whole(run.stage_name(stage), run.setup, now.method, sidecar):  # a kill before the manifest left it whole
        write_dataset(run, stage, labels, sidecar, now.method)
    record = _record(run.stage_name(stage), sidecar, fraction, source, change, scored, now, time.perf_counter() - begun)
    entered = {case: s.stage for s in reversed([*run.manifest.stages, record]) for case in s.cases}
    write_ranking(ranking_file(run.workspace, stage), ranking_lines(ranking, scored, entered))
    run.manifest.stages.append(record)
    run.manifest.method = run.method
    run.manifest.save(run.workspace)
    return record


def _student_before(run: Run) -> int | None:
    """The stage whose student took part in the labels of the newest stage, with which the next one's are compared."""
    return source_of(run.manifest.stages[-1]).student if run.manifest.stages else None


def _require_labels_before(run: Run) -> None:
    """See, before anything is swept, that the labels of the newest stage can be made again."""
    before = _student_before(run)
    if before is not None and not run.is_trained(before):
        raise SetupError(
            f"{run.student(before).checkpoint(run.fold)} is gone: its student took part in the labels of stage {len(run.manifest.stages)}, "
            "with which those of the next stage are compared; put it back, or train it again."
        )


def labelling_student(run: Run, stage: int) -> int | None:
    """The stage whose student takes part in the labels of a stage; None: the teacher alone."""
    return stage - 1 if stage > 1 and run.method.agreement.weight > 0 else None


def gather_all_evidence(
    run: Run, device: torch.device, cases: Sequence[str], *, student_stage: int | None, part: Part = WHOLE, engine: Engine | None = None
) -> None:
    """Sweep what the labels of a stage need: cases of the pool, held-out cases where they decide, and the pool's again with a student.

    Args:
        run: the run.
        device: where networks predict.
        cases: those of the pool that need pseudo-labels.
        student_stage: stage whose student takes part; None: the teacher alone.
        part: which of all these cases.
        engine: whose workers do it; None: this process.
    """
    cases = part.share(cases)
    gather_teacher_evidence(run, device, cases, engine)
    if uses_held_out(run.method, run.fold):
        gather_held_out_evidence(run, device, part, engine)
    if student_stage is not None:
        gather_student_evidence(run, student_stage, device, cases, engine)


def stage_fraction(run: Run, stage: int, change: ChangeReport | None) -> float:
    """K_t: as planned, or by how much the labels still change."""
    curriculum, agreement = run.method.curriculum, run.method.agreement
    fractions = curriculum.stage_fractions
    if curriculum.schedule == "fixed" or change is None:
        return fractions[stage - 1]
    previous = run.manifest.stages[-1].fraction
    limits = {"max_change": agreement.max_change, "stop_change": agreement.stop_change}
    fraction = next_fraction(fractions, stage, previous, change.overall, **limits)
    logger.info("adaptive schedule: stage %d takes %.0f %% of the pool", stage, 100 * fraction)
    return fraction


def write_dataset(run: Run, stage: int, labels: PoolLabels, sidecar: StageSidecar, method: MethodConfig) -> None:
    """Write a stage's dataset with the pool's labels, case by case, and the settings in force in its plans.

    Raises:
        StateError: if there is not enough space; nothing is written.
    """
    student, chosen = method.student, sidecar.pool_cases

    def pseudo_case(case: str) -> PseudoCase:
        return labels.pseudo_case(case, student.fixed_tau, with_probabilities=student.needs_probabilities)

    sizes = [pseudo_case_bytes(pseudo_case(c), run.setup, load_properties(run.pool.folder, c)) for c in spread(chosen, _MEASURED_CASES)]
    needed = frame_bytes(run.setup, len(chosen)).plus(mean_of(sizes).times(len(chosen)) if sizes else NOTHING)
    require_free_together(needed.by_folder, f"stage {stage} ({len(chosen)} pool cases)")
    is_written = stage <= len(run.manifest.stages)
    write_stage(run.stage_name(stage), run.setup, run.pool, method, sidecar, map(pseudo_case, chosen), is_written=is_written)


def stage_sidecar(
    run: Run, stage: int, chosen: list[str], accepted: dict[str, str], source: LabelSource, now: SettingsInForce, *, is_last: bool
) -> StageSidecar:
    """Provenance of a stage, and what its student's trainer needs to know.

    Args:
        run: the run.
        stage: t, from 1.
        chosen: cases with pseudo-labels, best first.
        accepted: cases with accepted labels, and the fingerprints of these.
        source: whose evidence makes the pseudo-labels.
        now: settings in force.
        is_last: whether the curriculum ends with this stage.

    Raises:
        StateError: if the splits hold out other cases than when the stage before was written, or a checkpoint of the teacher is damaged.
    """
    setup, student, manifest, curriculum = run.setup, run.method.student, run.manifest, run.method.curriculum
    train, validation = setup.fold_cases(run.fold)
    if stage > 1 and run.fold != "all":
        _refuse_changed_splits(run, stage - 1, validation)
    heads = setup.heads
    init, checkpoint = resolve_start(student.init, stage, run.start_model, manifest.teacher_folds[0], run.student, run.fold, setup)
    return StageSidecar(
        schema=SIDECAR,
        base_dataset=setup.dataset,
        workspace=run.workspace.relative_to(results_root()).as_posix(),
        teacher=run.teacher.name,
        teacher_fingerprint=manifest.teacher_fingerprint,
        stage=stage,
        num_stages=stage if is_last else curriculum.num_stages,
        num_epochs=curriculum.epochs_of(stage, student.length.num_epochs, is_last=is_last),
        fold=run.fold,
        labelled_cases=[*train, *accepted],
        validation_cases=validation or train,  # with `all` nothing is held out; nnU-Net's progress plot still needs cases
        pool_cases=chosen,
        accepted=accepted,
        num_confidence_channels=heads if setup.has_regions else 1,
        num_probability_channels=heads if student.needs_probabilities else 0,
        blind_heads=now.blind_heads,
        mirroring_axes=teacher_mirroring(run.start_model, manifest.teacher_folds),
        agreement_weight=source.weight,
        label_stage=source.student_stage,
        student_fingerprint=_student_fingerprint(run, source),
        init=init,
        init_checkpoint=checkpoint,
    )


def _refuse_changed_splits(run: Run, previous: int, validation: list[str]) -> None:
    """The student of the stage before has trained on what its own splits did not hold out, and takes part in this stage."""
    folder = preprocessed_root() / run.stage_name(previous)
    if (before := read_sidecar(folder)) is None:
        return
    held_out = before.get("validation_cases")
    if not isinstance(held_out, list) or not all(isinstance(case, str) for case in held_out):
        raise StateError(f"{folder / STAGE_SIDECAR} is damaged (no list of case names under 'validation_cases'); {WRITE_AGAIN}")
    if sorted(held_out) != validation:
        raise StateError(
            f"fold {run.fold} of the splits of {run.setup.dataset} holds out {', '.join(validation)}, in {run.stage_name(previous)} it was "
            f"{', '.join(sorted(held_out))}: restore splits_final.json, or {start_over(run.workspace)}."
        )


def _student_fingerprint(run: Run, source: LabelSource) -> str | None:
    """As the student's evidence carries it; None where the labels are the teacher's alone."""
    return None if source.student is None else run.student_store(source.student).source


def _record(
    dataset: str,
    sidecar: StageSidecar,
    fraction: float,
    source: LabelSource,
    change: ChangeReport | None,
    scored: Sequence[PoolCaseScores],
    now: SettingsInForce,
    seconds: float,
) -> StageRecord:
    method, chosen = now.method, set(sidecar.pool_cases)
    of_chosen = [s for s in scored if s.case in chosen]
    scores = [s.scores[method.evidence.case_score] for s in of_chosen]
    known = [score for score in scores if score is not None]
    return StageRecord(
        stage=sidecar.stage,
        dataset=dataset,
        fraction=fraction,
        cases=sidecar.pool_cases,
        is_last=sidecar.stage == sidecar.num_stages,
        num_epochs=sidecar.num_epochs,
        case_score=method.evidence.case_score,
        order=method.curriculum.order,
        tau=now.tau,
        calibration=now.calibration,
        agreement_weight=source.weight,
        label_stage=source.student_stage,
        kept_previous=source.kept_previous,
        score_range=(float(np.min(known)), float(np.max(known))) if known else None,
        share_confident=confident_share(of_chosen),
        change=change.per_class if change is not None else None,
        seconds=seconds,
        accepted=sidecar.accepted,
    )


def _warn_of_missing_classes(run: Run, chosen: list[str], scored: Sequence[PoolCaseScores]) -> None:
    """Name a class that the labelled set has and no chosen pseudo-label contains."""
    is_chosen = set(chosen)
    found = {name for s in scored if s.case in is_chosen for name in s.predicted}
    missing = [name for name in run.setup.foreground_names if name not in found]
    labelled = classes_in_labels(run.setup, run.setup.fold_cases(run.fold)[0]) if missing else set()
    for name in missing:
        if name in labelled:
            logger.warning("no chosen pseudo-label contains the class '%s'; the student learns it from manual labels alone", name)


def _warn_of_doubtful_labels(stage: int, chosen: Sequence[PoolCaseScores]) -> None:
    """Say that hardly any voxel of a stage would be learned."""
    if (share := confident_share(chosen)) < LEAST_CONFIDENT:
        logger.warning(
            "of the foreground of stage %d only %.1f %% is confident enough to be learned; its student learns little but the manual "
            "labels: look at the teacher, or lower student.tau",
            stage,
            100 * share,
        )
