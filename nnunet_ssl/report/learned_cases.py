"""How many cases of the pool the student of a stage learns from."""

from __future__ import annotations

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.data.manifest import Manifest, StageRecord
from nnunet_ssl.errors import NnsslError
from nnunet_ssl.locations import preprocessed_root
from nnunet_ssl.nnunet_api.json_file import read_json


def learned_pool_cases(manifest: Manifest, record: StageRecord) -> int:
    """Cases whose pseudo-labels a student learns from: those of its stage, or none where all its samples are of labelled cases.

    Args:
        manifest: of the run.
        record: one of its stages.
    """
    return 0 if _settings(manifest, record).student.labelled_share == 1 else len(record.cases)


def _settings(manifest: Manifest, record: StageRecord) -> MethodConfig:
    """The settings in a stage's plans, by which its student trains; the run's where these plans are gone or damaged."""
    path = preprocessed_root() / record.dataset / f"{manifest.plans}.json"
    try:
        return MethodConfig.from_dict(read_json(path)["configurations"][manifest.configuration]["nnssl"])
    except (NnsslError, KeyError, TypeError):
        return MethodConfig.from_dict(manifest.method)
