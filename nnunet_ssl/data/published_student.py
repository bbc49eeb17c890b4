"""Where the last student of a run stands as a model of the labelled dataset, and whether it does."""

from __future__ import annotations

import filecmp
from pathlib import Path

from nnunet_ssl.data.manifest import Manifest
from nnunet_ssl.locations import PUBLISHED_MARKER, ModelLocation, results_root
from nnunet_ssl.nnunet_api.json_file import read_json


def place_of_student(manifest: Manifest) -> ModelLocation:
    """Where the last student of a run is published."""
    return manifest.student_on(manifest.dataset)


def relative_workspace(workspace: Path) -> str:
    """The workspace of a run as the marker of its published student names it."""
    return workspace.relative_to(results_root()).as_posix()


def is_student_published(manifest: Manifest, workspace: Path) -> bool:
    """Whether the published fold is the run's last student as it is now; one from before it was trained anew, or validated, is not."""
    model, fold = place_of_student(manifest), manifest.fold
    marker = model.fold_folder(fold) / PUBLISHED_MARKER
    if not (manifest.published and manifest.stages and marker.is_file()):
        return False
    if read_json(marker).get("workspace") != relative_workspace(workspace):
        return False
    student = manifest.student_on(manifest.stages[-1].dataset)
    if not student.checkpoint(fold).is_file():
        return model.checkpoint(fold).is_file()  # the stage was removed, and what is published is all that is left of it
    if not _are_same(student.checkpoint(fold), model.checkpoint(fold)):
        return False
    summary, published = student.validation_summary(fold), model.validation_summary(fold)
    if not summary.is_file():
        return True
    later = {path.name for path in summary.parent.glob("*.npz")} - {path.name for path in published.parent.glob("*.npz")}
    return not later and _are_same(summary, published)


def _are_same(student: Path, published: Path) -> bool:
    """Whether both files are there with the same content; a copy of the same size and time is taken for one, so that it is not read."""
    if not (student.is_file() and published.is_file()):
        return False
    return student.samefile(published) or filecmp.cmp(student, published)
