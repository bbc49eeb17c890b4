"""`nnssl.json` of a stage dataset, as it is written; `training.stage` is the part of it that a student trainer reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_ssl.locations import STAGE_SIDECAR
from nnunet_ssl.nnunet_api.json_file import read_json_or_none


@dataclass(frozen=True, kw_only=True)
class StageSidecar:
    """`nnssl.json` of a stage dataset: its provenance, and what the student trainer needs to know."""

    schema: int
    base_dataset: str
    workspace: str
    """Workspace the stage belongs to, relative to nnUNet_results."""
    teacher: str
    """Teacher model folder name."""
    teacher_fingerprint: str
    stage: int
    num_stages: int
    num_epochs: int
    fold: int | str
    labelled_cases: list[str]
    """Labelled cases that train, accepted ones among them."""
    validation_cases: list[str]
    pool_cases: list[str]
    """Cases with pseudo-labels."""
    accepted: dict[str, str] = field(default_factory=dict)
    """Pool cases that count as labelled, with the fingerprint of the manual label that was accepted."""
    num_confidence_channels: int
    num_probability_channels: int
    blind_heads: list[int]
    """Heads (classes, regions) that the teacher hardly ever finds: pool samples teach nothing about them, neither for nor against."""
    mirroring_axes: list[int] | None = None
    """Spatial axes along which the teacher was mirrored in training, and the student may be; None: its checkpoints do not say."""
    agreement_weight: float
    label_stage: int | None
    student_fingerprint: str | None = None
    """Of the student that took part in the labels, with its number of samples; None: they are the teacher's alone."""
    init: str
    """`teacher`, `previous` or `scratch`, resolved."""
    init_checkpoint: str | None
    """Checkpoint the student starts from, relative to nnUNet_results."""


def read_sidecar(folder: Path) -> dict[str, Any] | None:
    """The sidecar in a raw or preprocessed stage dataset, or None where there is none or it is damaged."""
    return read_json_or_none(folder / STAGE_SIDECAR)
