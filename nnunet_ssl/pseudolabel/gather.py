"""Evidence of teacher and students, gathered where it is missing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from nnunet_ssl.data.evidence_store import EvidenceStore
from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.machines.engine import Engine
from nnunet_ssl.machines.part import WHOLE, Part
from nnunet_ssl.nnunet_api.evidence_predictor import EvidencePredictor
from nnunet_ssl.nnunet_api.training_fold import check_model_of_fold
from nnunet_ssl.pseudolabel.evidence_room import require_evidence_room
from nnunet_ssl.pseudolabel.predictions import take_predictions
from nnunet_ssl.pseudolabel.run import Run
from nnunet_ssl.pseudolabel.sweep import gather_evidence
from nnunet_ssl.pseudolabel.sweep_job import Sweep, sweep_elsewhere

logger = logging.getLogger(__name__)


def gather_teacher_evidence(run: Run, device: torch.device, cases: Sequence[str] | None = None, engine: Engine | None = None) -> None:
    """Sweep the pool with every fold of the teacher, or take the predictions that stand for it; cases that have evidence are left alone.

    Args:
        run: the run.
        device: where networks predict.
        cases: of the pool; None takes those that need pseudo-labels.
        engine: whose workers do it; None: this process.
    """
    cases = run.pseudo_cases if cases is None else cases
    if run.manifest.predictions is not None:
        take_predictions(run, cases, engine)
        return
    for fold, store in run.teacher_stores().items():
        label = "teacher" if len(run.manifest.teacher_folds) == 1 else f"teacher, fold {fold}"
        _gather(run, run.teacher, fold, cases, run.pool.folder, store, device, label, engine)


def gather_held_out_evidence(run: Run, device: torch.device, part: Part = WHOLE, engine: Engine | None = None) -> None:
    """Sweep each fold's validation cases with the teacher of that fold, which has not seen them; labels are not read here.

    Args:
        run: the run.
        device: where networks predict.
        part: which of the held-out cases of all folds together.
        engine: whose workers do it; None: this process.
    """
    mine = set(part.share(sorted(case for cases in run.held_out_cases.values() for case in cases)))
    for fold, store in run.held_out_stores().items():
        label, cases = f"teacher, fold {fold}, on held-out cases", [case for case in run.held_out_cases[fold] if case in mine]
        _gather(run, run.teacher, fold, cases, run.setup.data_folder, store, device, label, engine)


def gather_student_evidence(run: Run, stage: int, device: torch.device, cases: Sequence[str], engine: Engine | None = None) -> None:
    """Sweep cases of the pool with the student of a stage."""
    label = f"student of stage {stage}"
    _gather(run, run.student(stage), run.fold, cases, run.pool.folder, run.student_store(stage), device, label, engine)


def _gather(
    run: Run,
    model: ModelLocation,
    fold: int | str,
    cases: Sequence[str],
    folder: Path,
    store: EvidenceStore,
    device: torch.device,
    label: str,
    engine: Engine | None,
) -> None:
    store.remove_leftovers()
    # an image that was not read yet, or has changed since, is read for it, to see that none was replaced
    looked_at = tqdm(cases, desc=f"looking for evidence of the {label}", disable=not store.folder.is_dir())
    todo = [case for case in looked_at if not store.has(case)]
    if not todo:
        return
    require_evidence_room(run, store, len(todo), label)
    check_model_of_fold(model, fold)
    if engine is not None:
        sweep = Sweep(model.folder, fold, run.method.evidence.num_samples, device.type, folder, store.folder, store.source, label)
        sweep_elsewhere(engine, sweep, cases)
        return
    predictor = EvidencePredictor(num_samples=run.method.evidence.num_samples, device=device)
    predictor.load_model(model.folder, [fold])
    if predictor.num_samples != run.method.evidence.num_samples:
        logger.info("%s: %d samples per voxel (views x draws)", label, predictor.num_samples)
    gather_evidence(predictor, folder, cases, store, label=label)
