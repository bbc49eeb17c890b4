"""Write a stage again that the manifest has, after files of it were lost or damaged."""

from __future__ import annotations

import torch

from nnunet_ssl.data.manifest import StageRecord
from nnunet_ssl.errors import ConfigError
from nnunet_ssl.machines.engine import Engine
from nnunet_ssl.pseudolabel.grow import gather_all_evidence, stage_sidecar, write_dataset
from nnunet_ssl.pseudolabel.in_force import in_force
from nnunet_ssl.pseudolabel.label_source import labels_of, source_of
from nnunet_ssl.pseudolabel.run import Run


def rewrite_stage(run: Run, stage: int, *, device: torch.device, engine: Engine | None = None) -> StageRecord:
    """Write a stage's dataset again with the cases and the source of labels that the manifest names; the manifest stays as it is.

    Args:
        run: the run.
        stage: t, from 1; one that is in the manifest.
        device: where networks predict, should evidence be missing.
        engine: whose workers gather it; None: this process.

    Returns:
        The record of the stage.

    Raises:
        ConfigError: if the manifest has no such stage.
        SetupError: if the student who took part in the labels is gone, and its evidence too.
        StateError: if another process writes a stage or changes the run.
    """
    with run.changing():
        return _rewrite(run, stage, device=device, engine=engine)


def _rewrite(run: Run, stage: int, *, device: torch.device, engine: Engine | None) -> StageRecord:
    records = run.manifest.stages
    if not 1 <= stage <= len(records):
        written = f"stages 1 to {len(records)} are" if len(records) > 1 else "stage 1 alone is" if records else "none is"
        raise ConfigError(f"--stage {stage}: {written} written in {run.workspace}; without --stage the next one is.")
    record = records[stage - 1]
    source = source_of(record)
    cases = run.pool_without(record.accepted)
    student = source.student_stage if source.weight > 0 else None
    gather_all_evidence(run, device, cases, student_stage=student, engine=engine)
    now = in_force(run)
    sidecar = stage_sidecar(run, stage, record.cases, record.accepted, source, now, is_last=record.is_last)
    write_dataset(run, stage, labels_of(run, source, now.study), sidecar, now.method)
    return record
