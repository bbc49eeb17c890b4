"""Settings that changed between the stages of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nnunet_ssl.data.manifest import Manifest, StageRecord
from nnunet_ssl.data.stage_settings import settings_of_stage

_SECTIONS = ("student.", "agreement.", "evidence.")
_ELSEWHERE = ("student.tau", "evidence.case_score", "student.length.num_epochs")
"""Not from plans, where the first two are as held-out cases may have decided, and the epochs those of all stages together."""


def changed_settings(manifest: Manifest) -> list[str]:
    """Settings that not all stages of a run were written with, by dotted path, sorted; epochs, which a stage has of its own, are none.

    They are seen in the manifest, as far as it records them, and in the plans of those stages whose files are there.
    """
    stages = manifest.stages
    return sorted(_differing(map(_recorded, stages)) | _differing(_in_plans(manifest, record) for record in stages))


def _differing(stages: Iterable[Mapping[str, Any]]) -> set[str]:
    """Settings with more than one value among the stages that have them."""
    first: dict[str, Any] = {}
    return {path for settings in stages for path, value in settings.items() if first.setdefault(path, value) != value}


def _recorded(record: StageRecord) -> dict[str, Any]:
    """What the manifest says of a stage; where it has the labels of the stage before, or is the first, nothing of agreement."""
    settings = {"student.tau": record.tau, "evidence.case_score": record.case_score, "evidence.confidence": record.calibration}
    if record.stage > 1 and not record.kept_previous:
        settings["agreement.weight"] = record.agreement_weight
    return settings


def _in_plans(manifest: Manifest, record: StageRecord) -> dict[str, Any]:
    """The settings in a stage's plans; empty where they are gone or damaged."""
    if (settings := settings_of_stage(manifest, record)) is None:
        return {}
    return {path: value for path, value in settings.by_path().items() if path.startswith(_SECTIONS) and path not in _ELSEWHERE}
