"""See that the students of a published run are still there, whose logs and figures the report is made of."""

from __future__ import annotations

from nnunet_ssl.data.manifest import Manifest
from nnunet_ssl.errors import StateError
from nnunet_ssl.nnunet_api.training_state import checkpoint_to_open


def require_students(manifest: Manifest) -> None:
    """See that a run which was published, so that every student was trained, still has them all.

    Args:
        manifest: of the run.

    Raises:
        StateError: if one is gone, as after a clean-up; a report would call it untrained.
    """
    for record in manifest.stages if manifest.published else ():
        student = manifest.student_on(record.dataset)
        if checkpoint_to_open(student, manifest.fold) is None:
            raise StateError(
                f"the student of stage {record.stage} is gone ({student.fold_folder(manifest.fold)} holds no checkpoint), and the run has "
                "been published: its report cannot be made anew. Put that folder back, or keep the report that was made before; it stays "
                "as it is."
            )
