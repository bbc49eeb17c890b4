"""Write a stage again that the manifest has: files of it were lost or damaged, or it is to have new settings."""

from __future__ import annotations

import json
from dataclasses import replace

import torch

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.data.held_out_use import uses_held_out
from nnunet_ssl.data.manifest import KEPT_BY_STAGES, StageRecord
from nnunet_ssl.data.stage_settings import settings_of_stage
from nnunet_ssl.errors import ConfigError
from nnunet_ssl.machines.engine import Engine
from nnunet_ssl.pseudolabel.grow import gather_all_evidence, stage_sidecar, write_dataset
from nnunet_ssl.pseudolabel.in_force import in_force
from nnunet_ssl.pseudolabel.label_source import labels_of, source_of
from nnunet_ssl.pseudolabel.ranking import confident_share, score_pool
from nnunet_ssl.pseudolabel.run import Run


def rewrite_stage(run: Run, stage: int, *, device: torch.device, engine: Engine | None = None) -> StageRecord:
    """Write a stage's dataset again with the cases and the source of labels that the manifest names, and the run's present settings.

    The stage's entry in the manifest then says what it has now. The settings of a run are those of its newest stage: an earlier stage that
    is written with others keeps these to itself.

    Args:
        run: the run.
        stage: t, from 1; one that is in the manifest.
        device: where networks predict, should evidence be missing.
        engine: whose workers gather it; None: this process.

    Returns:
        The record of the stage.

    Raises:
        ConfigError: if the manifest has no such stage, or a setting is given that decided its cases or labels.
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
    record, given = records[stage - 1], run.method
    own = given.with_settings({"evidence.confidence": _confidence_of(run, record)})
    _refuse_kept_settings(run, stage, own)
    run = replace(run, method=own)
    source = source_of(record)
    cases = run.pool_without(record.accepted)
    gather_all_evidence(run, device, cases, student_stage=source.student, engine=engine)
    now = in_force(run)
    sidecar = stage_sidecar(run, stage, record.cases, record.accepted, source, now, is_last=record.is_last)
    labels, chosen = labels_of(run, source, now.study), set(record.cases)
    scored = score_pool(labels, [case for case in cases if case in chosen], now.method.student.fixed_tau)
    write_dataset(run, stage, labels, sidecar, now.method)
    records[stage - 1] = replace(
        record,
        num_epochs=sidecar.num_epochs,
        tau=now.tau,
        calibration=now.calibration,
        share_confident=confident_share(scored),
    )
    if stage == len(records):
        run.manifest.method = given
    run.manifest.save(run.workspace)
    return records[stage - 1]


def _confidence_of(run: Run, record: StageRecord) -> str:
    """The kind of confidence that a stage was written with, by its own plans; by its entry in the manifest where these are lost."""
    if (settings := settings_of_stage(run.manifest, record)) is not None:
        return settings.evidence.confidence
    return "paper" if record.calibration is None else "calibrated"


def _refuse_kept_settings(run: Run, stage: int, own: MethodConfig) -> None:
    """Refuse settings that differ from those of the run and decided what a stage is; its own confidence may be named.

    Args:
        run: with the settings that are given.
        stage: to be written again.
        own: those that the stage is to be written with.
    """
    old = run.manifest.method.by_path()
    for path, value in run.method.by_path().items():
        is_own = path == "evidence.confidence" and uses_held_out(run.method, run.fold) == uses_held_out(own, run.fold)
        if path.startswith(KEPT_BY_STAGES) and value != old[path] and not is_own:
            raise ConfigError(
                f"--stage {stage}: {path} = {json.dumps(value)} is refused: a stage that is written again keeps its cases and labels, "
                "which this setting decided."
            )
