"""A teacher that would be trained while a run still uses the one before, which is set aside or lost."""

from __future__ import annotations

from nnunet_ssl.data.manifest import Manifest
from nnunet_ssl.errors import StateError
from nnunet_ssl.locations import MANIFEST_FILE, ModelLocation
from nnunet_ssl.nnunet_api.earlier_training import FINAL, LATEST, PREFIX, SUMMARY


def refuse_training_anew(teacher: ModelLocation, fold: int | str) -> None:
    """See that no run that has begun uses a teacher which another one would replace.

    That is one which a training of the same fold has set aside, and would remove in the end, or whose checkpoint is gone.

    Args:
        teacher: of the runs.
        fold: its fold; runs of the fold itself and of final mode (`all`) may use it.

    Raises:
        StateError: with both ways out, if one does.
    """
    final = teacher.checkpoint(fold)
    earlier = final.with_name(PREFIX + FINAL)
    if final.is_file() and not earlier.is_file():
        return
    for workspace in (teacher.workspace(fold), teacher.workspace("all")):
        run = Manifest.load(workspace)
        if run is None or fold not in run.teacher_folds:
            continue
        if not earlier.is_file():
            raise StateError(
                f"the teacher of fold {fold}, which the run in {workspace} uses, is gone: {final} is missing; put it back, or remove "
                f"{workspace / MANIFEST_FILE} to start over with a new one."
            )
        raise StateError(
            f"the teacher of fold {fold}, which the run in {workspace} uses, is being trained anew; to go back to the one before, end "
            f"that training, remove {LATEST} in {earlier.parent} and give {earlier.name} (and validation/{PREFIX}{SUMMARY.name}) their "
            f"names without '{PREFIX}'; to use the new one, remove {workspace / MANIFEST_FILE} and train it to its end."
        )
