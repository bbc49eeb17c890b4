"""What a run's workspace knows of held-out cases: the study that decided about labels, or the one of an audit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnunet_ssl.errors import NnsslError
from nnunet_ssl.locations import AUDIT_FILE, STUDY_FILE
from nnunet_ssl.nnunet_api.json_file import read_json
from nnunet_ssl.schemas import STUDY, schema_of


def find_study(workspace: Path, teacher_fingerprint: str) -> tuple[Path, Any] | None:
    """File and content of the study of a teacher; one of an earlier run, with another teacher or number of samples, is none.

    A file of an older version does not say whose it is.

    Args:
        workspace: of the run.
        teacher_fingerprint: of the run's teacher.

    Returns:
        The content is None where the audit found nothing to study.

    Raises:
        InputError, StateError: if a file is damaged.
    """
    for path in (workspace / name for name in (STUDY_FILE, AUDIT_FILE)):
        if path.is_file():
            study = read_study(path)
            if not isinstance(study, dict) or study.get("teacher_fingerprint", teacher_fingerprint) == teacher_fingerprint:
                return path, study
    return None


def has_study(workspace: Path, teacher_fingerprint: str) -> bool:
    """Whether there is one, should it be damaged."""
    try:
        return find_study(workspace, teacher_fingerprint) is not None
    except NnsslError:
        return True


def read_study(path: Path) -> Any:
    """The study in a file, as it stands there; None where the audit found nothing to study."""
    content = read_json(path)
    schema_of(content, STUDY, path, first_has_none=True)
    return content["study"] if path.name == AUDIT_FILE and "study" in content else content
