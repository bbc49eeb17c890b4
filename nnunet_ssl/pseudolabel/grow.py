"""Grow the dataset by one stage: evidence, agreement, ranking, stage dataset, manifest; what is done already is not done again."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nnunet_ssl.confidence.curriculum import select
from nnunet_ssl.config import SCHEMA, MethodConfig
from nnunet_ssl.data.evidence_store import EvidenceStore, student_store, teacher_store
from nnunet_ssl.data.manifest import Manifest, StageRecord
from nnunet_ssl.data.pool import PoolIndex
from nnunet_ssl.data.stage_dataset import StageSidecar, stage_is_whole, write_stage
from nnunet_ssl.errors import StateError
from nnunet_ssl.locations import ModelLocation, results_root, stage_dataset_name
from nnunet_ssl.nnunet_api.evidence_predictor import EvidencePredictor
from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.pseudolabel.label_change import ChangeReport, label_change
from nnunet_ssl.pseudolabel.pool_labels import PoolLabels
from nnunet_ssl.pseudolabel.ranking import ScoredCase, rank_pool, score_pool, write_ranking
from nnunet_ssl.pseudolabel.student_start import resolve_start
from nnunet_ssl.pseudolabel.sweep import gather_evidence

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """One run: a set-up, its pool, its fold and its manifest, with where everything of it lies."""

    setup: NnunetSetup
    pool: PoolIndex
    manifest: Manifest
    teacher: ModelLocation

    @property
    def fold(self) -> int | str:
        return self.manifest.fold

    @property
    def workspace(self) -> Path:
        return self.teacher.workspace(self.fold)

    @property
    def method(self) -> MethodConfig:
        return MethodConfig.from_dict(self.manifest.method)

    def student(self, stage: int) -> ModelLocation:
        """The student of a stage, trained or not."""
        return ModelLocation(
            dataset=self.stage_name(stage),
            trainer=self.manifest.student_trainer,
            plans=self.setup.plans_name,
            configuration=self.setup.configuration,
        )

    def stage_name(self, stage: int) -> str:
        return stage_dataset_name(self.manifest.dataset_ids[stage - 1], self.setup.dataset, self.fold, stage)

    def is_trained(self, stage: int) -> bool:
        """Whether the student of a stage has finished training."""
        return self.student(stage).checkpoint(self.fold).is_file()

    @property
    def next_stage(self) -> int | None:
        """The stage to write next; None when the curriculum is complete."""
        written = len(self.manifest.stages)
        return written + 1 if written < self.method.curriculum.num_stages else None

    def teacher_store(self) -> EvidenceStore:
        """Evidence of the teacher."""
        return teacher_store(self.workspace, self.manifest.teacher_fingerprint)

    def student_store(self, stage: int) -> EvidenceStore:
        """Evidence of the student of a stage; a `SetupError` if that student is not trained yet."""
        return student_store(self.workspace, stage, self.student(stage).checkpoint(self.fold), self.method.evidence.num_samples)


@dataclass(frozen=True)
class LabelSource:
    """Whose evidence makes the labels of a stage."""

    student_stage: int | None
    """Stage whose student takes part; None: the teacher alone."""
    weight: float
    kept_previous: bool = False


def gather_teacher_evidence(run: Run, device: torch.device) -> None:
    """Sweep the pool with the teacher; cases that have evidence are left alone."""
    _gather(run, run.teacher, run.manifest.teacher_folds, run.teacher_store(), device, "teacher")


def gather_student_evidence(run: Run, stage: int, device: torch.device) -> None:
    """Sweep the pool with the student of a stage."""
    _gather(run, run.student(stage), [run.fold], run.student_store(stage), device, f"student of stage {stage}")


def _gather(run: Run, model: ModelLocation, folds: Sequence[int | str], store: EvidenceStore, device: torch.device, label: str) -> None:
    cases = run.manifest.pool
    if all(store.has(case) for case in cases):
        return
    predictor = EvidencePredictor(num_samples=run.method.evidence.num_samples, device=device)
    predictor.load_model(model.folder, list(folds))
    if predictor.num_samples != run.method.evidence.num_samples * len(folds):
        logger.info("%s: %d samples per voxel (views x draws x folds)", label, predictor.num_samples)
    gather_evidence(predictor, run.pool, cases, store, label=label)


def labels_of(run: Run, source: LabelSource) -> PoolLabels:
    """The pool's labels from a source."""
    student = run.student_store(source.student_stage) if source.student_stage is not None and source.weight > 0 else None
    return PoolLabels(run.setup, run.pool, run.teacher_store(), student, source.weight if student is not None else 0.0)


def source_of(record: StageRecord) -> LabelSource:
    """Whose evidence made the labels of a stage that is written."""
    return LabelSource(record.label_stage, record.agreement_weight, record.kept_previous)


def choose_source(run: Run, stage: int) -> tuple[LabelSource, ChangeReport | None]:
    """Refine the labels by agreement with the previous stage's student, or keep the previous ones where they changed too much.

    Returns:
        Whose evidence to use, and how much the refined labels differ from the previous stage's (None at the first stage).
    """
    agreement = run.method.agreement
    if stage == 1:
        return LabelSource(None, 0.0), None
    previous = source_of(run.manifest.stages[-1])
    refined = LabelSource(stage - 1, agreement.weight) if agreement.weight > 0 else LabelSource(None, 0.0)
    change = label_change(labels_of(run, previous), labels_of(run, refined), run.manifest.pool, run.setup.class_names)
    logger.info("labels against stage %d: %s", stage - 1, change.describe())
    if change.overall > agreement.max_change:
        logger.warning(
            "%.1f %% of the foreground voxels changed, more than the %.0f %% allowed: the labels of stage %d are kept",
            100 * change.overall,
            100 * agreement.max_change,
            stage - 1,
        )
        return LabelSource(previous.student_stage, previous.weight, kept_previous=True), change
    if change.overall < agreement.stop_change:
        logger.info("less than %.1f %% changed: the labels have settled", 100 * agreement.stop_change)
    return refined, change


def grow(run: Run, *, device: torch.device, rescore: bool = False) -> StageRecord:
    """Write the next stage.

    Args:
        run: the run, with its manifest.
        device: where networks predict.
        rescore: rank from stored evidence; missing evidence is an error instead of being gathered.

    Returns:
        The record of the stage, which also stands in the manifest.

    Raises:
        SetupError: if the previous student is not trained.
        StateError: if the curriculum is complete, or with `rescore` evidence is missing.
    """
    begun, stage = time.perf_counter(), run.next_stage
    if stage is None:
        raise StateError(f"the curriculum of {run.workspace} is complete: {len(run.manifest.stages)} stages are written.")
    if stage > 1:
        run.student_store(stage - 1)  # an error if that student is not trained, also where its evidence is not asked for
    if not rescore:
        gather_teacher_evidence(run, device)
        if stage > 1 and run.method.agreement.weight > 0:
            gather_student_evidence(run, stage - 1, device)
    source, change = choose_source(run, stage)
    method, labels = run.method, labels_of(run, source)
    scored = score_pool(labels, run.manifest.pool, method.student.tau)
    ranking = rank_pool(scored, method.evidence, method.curriculum)
    fraction = method.curriculum.stage_fractions[stage - 1]
    chosen = [ranked.case for ranked in select(ranking, fraction)]
    _warn_of_missing_classes(run, chosen, scored)
    sidecar = stage_sidecar(run, stage, chosen, source)
    if not stage_is_whole(run.stage_name(stage), sidecar):  # a kill between the dataset and the manifest left it whole
        write_dataset(run, stage, labels, sidecar)
    record = _record(run, stage, chosen, fraction, source, change, scored, sidecar, time.perf_counter() - begun)
    entered = {case: s.stage for s in reversed([*run.manifest.stages, record]) for case in s.cases}
    write_ranking(run.workspace / f"ranking_{stage}.csv", ranking, scored, entered)
    run.manifest.stages.append(record)
    run.manifest.save(run.workspace)
    return record


def write_dataset(run: Run, stage: int, labels: PoolLabels, sidecar: StageSidecar) -> None:
    """Write a stage's dataset with the pool's labels, case by case."""
    student = run.method.student
    cases = (labels.pseudo_case(case, student.tau, with_probabilities=student.needs_probabilities) for case in sidecar.pool_cases)
    write_stage(run.stage_name(stage), run.setup, run.pool, run.method, sidecar, cases)


def stage_sidecar(run: Run, stage: int, chosen: list[str], source: LabelSource) -> StageSidecar:
    """Provenance of a stage, and what its student's trainer needs to know."""
    setup, student, manifest = run.setup, run.method.student, run.manifest
    train, validation = setup.fold_cases(run.fold)
    heads = setup.heads
    init, checkpoint = resolve_start(run.method.student.init, stage, run.teacher, manifest.teacher_folds[0], run.student, run.fold, setup)
    return StageSidecar(
        schema=SCHEMA,
        base_dataset=setup.dataset,
        workspace=run.workspace.relative_to(results_root()).as_posix(),
        teacher=run.teacher.name,
        teacher_fingerprint=manifest.teacher_fingerprint,
        stage=stage,
        num_stages=run.method.curriculum.num_stages,
        num_epochs=run.method.curriculum.stage_epochs(student.length.num_epochs)[stage - 1],
        fold=run.fold,
        labelled_cases=train,
        validation_cases=validation or train,  # with `all` nothing is held out; nnU-Net's progress plot still needs cases
        pool_cases=chosen,
        num_confidence_channels=heads if setup.has_regions else 1,
        num_probability_channels=heads if student.needs_probabilities else 0,
        agreement_weight=source.weight,
        label_stage=source.student_stage,
        init=init,
        init_checkpoint=checkpoint,
    )


def _record(
    run: Run,
    stage: int,
    chosen: list[str],
    fraction: float,
    source: LabelSource,
    change: ChangeReport | None,
    scored: Sequence[ScoredCase],
    sidecar: StageSidecar,
    seconds: float,
) -> StageRecord:
    of_chosen = [s for s in scored if s.case in set(chosen)]
    scores = [s.scores[run.method.evidence.case_score] for s in of_chosen]
    known = [score for score in scores if score is not None]
    voxels = sum(s.foreground_voxels for s in of_chosen)
    confident = sum(s.foreground_voxels * s.confident_share for s in of_chosen if s.confident_share is not None)
    return StageRecord(
        stage=stage,
        dataset=run.stage_name(stage),
        fraction=fraction,
        cases=chosen,
        num_epochs=sidecar.num_epochs,
        agreement_weight=source.weight,
        label_stage=source.student_stage,
        kept_previous=source.kept_previous,
        score_range=(float(np.min(known)), float(np.max(known))) if known else None,
        share_confident=float(confident / voxels) if voxels else 0.0,
        change=change.per_class if change is not None else None,
        seconds=seconds,
    )


def _warn_of_missing_classes(run: Run, chosen: list[str], scored: Sequence[ScoredCase]) -> None:
    """Name a class that the labelled set has and no chosen pseudo-label contains."""
    found = {name for s in scored if s.case in set(chosen) for name in s.stratum.split("+")}
    wanted = run.setup.class_names if run.setup.has_regions else run.setup.class_names[1:]
    for name in wanted:
        if name not in found:
            logger.warning("no chosen pseudo-label contains the class '%s'; the student learns it from manual labels alone", name)
