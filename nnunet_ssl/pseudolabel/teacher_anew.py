"""A teacher that is trained anew while a run still uses the one before."""

from __future__ import annotations

from nnunet_ssl.data.manifest import Manifest
from nnunet_ssl.errors import StateError
from nnunet_ssl.locations import MANIFEST_FILE, ModelLocation
from nnunet_ssl.nnunet_api.earlier_training import FINAL, LATEST, PREFIX, SUMMARY


def refuse_training_anew(teacher: ModelLocation, fold: int | str) -> None:
    """See that no run that has begun uses the teacher which a training of the same fold has set aside, and would remove in the end.

    Args:
        teacher: of the runs.
        fold: its fold; runs of the fold itself and of final mode (`all`) may use it.

    Raises:
        StateError: with both ways out, if one does.
    """
    earlier = teacher.checkpoint(fold).with_name(PREFIX + FINAL)
    if not earlier.is_file():
        return
    for workspace in (teacher.workspace(fold), teacher.workspace("all")):
        run = Manifest.load(workspace)
        if run is not None and fold in run.teacher_folds:
            raise StateError(
                f"the teacher of fold {fold}, which the run in {workspace} uses, is being trained anew; to go back to the one before, end "
                f"that training, remove {LATEST} in {earlier.parent} and give {earlier.name} (and validation/{PREFIX}{SUMMARY.name}) their "
                f"names without '{PREFIX}'; to use the new one, remove {workspace / MANIFEST_FILE} and train it to its end."
            )
