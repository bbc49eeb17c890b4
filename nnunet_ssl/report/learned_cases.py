"""How many cases of the pool the student of a stage learns from."""

from __future__ import annotations

from nnunet_ssl.data.manifest import Manifest, StageRecord
from nnunet_ssl.data.stage_settings import settings_of_stage


def learned_pool_cases(manifest: Manifest, record: StageRecord) -> int:
    """Cases whose pseudo-labels a student learns from: those of its stage, or none where all its samples are of labelled cases.

    Args:
        manifest: of the run.
        record: one of its stages.
    """
    settings = settings_of_stage(manifest, record) or manifest.method
    return 0 if settings.student.labelled_share == 1 else len(record.cases)
