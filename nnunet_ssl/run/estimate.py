"""What a run will need on disk, before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nnunet_ssl.confidence.curriculum import stage_size
from nnunet_ssl.data.pool_index import load_pool
from nnunet_ssl.data.pool_size import pool_case_bytes
from nnunet_ssl.data.stage_size import frame_bytes
from nnunet_ssl.errors import NnsslError
from nnunet_ssl.pseudolabel.evidence_room import stored_evidence_bytes
from nnunet_ssl.pseudolabel.typical_size import typical_case_size
from nnunet_ssl.run.run_request import RunRequest
from nnunet_ssl.run.training_size import student_bytes, teacher_bytes


@dataclass(frozen=True)
class DiskEstimate:
    """Megabytes of a whole run, what is done of it as well."""

    pool: float
    evidence: float
    stages: float
    trainings: float
    """Checkpoints, logs and validation predictions of teacher and students."""

    @property
    def total(self) -> float:
        return self.pool + self.evidence + self.stages + self.trainings


def of_all_folds(estimates: Sequence[DiskEstimate]) -> DiskEstimate:
    """Of several runs of one dataset, which share its pool."""
    sums = (sum(getattr(e, part) for e in estimates) for part in ("evidence", "stages", "trainings"))
    return DiskEstimate(estimates[0].pool, *sums)


def estimate_disk(request: RunRequest, num_pool_cases: int) -> DiskEstimate:
    """Estimate from the labelled cases, which the pool will resemble, from the network, and from evidence where the run has some.

    Args:
        request: the run.
        num_pool_cases: cases in the pool.

    Raises:
        SetupError: if no labelled case is preprocessed, or a trainer is unknown.
    """
    setup, method, folds = request.setup, request.method, request.folds
    try:
        pool = load_pool(setup)
    except NnsslError:  # not prepared yet
        pool = None
    case = typical_case_size(setup, method, pool)
    run = request.begun() if pool is not None else None
    num_cases = num_pool_cases if run is None else len(run.manifest.pool)  # others that came later are no part of it
    evidence_bytes = (stored_evidence_bytes(run) if run is not None else None) or case.evidence
    predictors = len(folds) + (method.curriculum.num_stages - 1 if method.agreement.weight > 0 else 0)
    held_out = len(setup.labelled_cases) if len(folds) > 1 else 0
    entries = [stage_size(k, num_cases) for k in method.curriculum.stage_fractions]
    stages = sum(case.stage.times(n).plus(frame_bytes(setup, n)).total for n in entries)
    trainings = method.curriculum.num_stages * student_bytes(setup, method, request.student, request.fold)
    if not request.is_from_predictions:
        trainings += sum(teacher_bytes(setup, method, request.teacher_trainer, fold) for fold in folds)
    return DiskEstimate(
        pool=pool_case_bytes(setup) * num_pool_cases / 1e6,
        evidence=evidence_bytes * (num_cases * predictors + held_out) / 1e6,
        stages=stages / 1e6,
        trainings=trainings / 1e6,
    )
