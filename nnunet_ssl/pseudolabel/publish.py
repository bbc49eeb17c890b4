"""Make the last student a model of the user's own dataset, for stock inference."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

from nnunet_ssl.data.files import OWN_PREFIX, copy_file, link, remove_leftovers, replacing, write_json
from nnunet_ssl.data.manifest import Manifest
from nnunet_ssl.data.published_student import is_student_published, place_of_student, relative_workspace
from nnunet_ssl.disk import require_free
from nnunet_ssl.errors import SetupError, StateError
from nnunet_ssl.locations import PUBLISHED_MARKER, ModelLocation, fold_name, results_root
from nnunet_ssl.names import check_relative_path
from nnunet_ssl.nnunet_api.checkpoints import load_checkpoint
from nnunet_ssl.nnunet_api.json_file import read_json
from nnunet_ssl.nnunet_api.training_state import training_command
from nnunet_ssl.pseudolabel.run import Run
from nnunet_ssl.schemas import PUBLISHED

logger = logging.getLogger(__name__)

_REWRITTEN = ("validation", "debug.json", "progress.png")
"""What nnU-Net writes in place when a student is trained or validated anew; links would show new figures and labels beside old weights."""


def published_model(run: Run) -> ModelLocation:
    """Where the published model stands."""
    return place_of_student(run.manifest)


def is_published(run: Run) -> bool:
    """See `is_student_published`."""
    return is_student_published(run.manifest, run.workspace)


def warn_of_other_run(run: Run) -> None:
    """Say, where a run begins, that another one's student stands where its own is to be published in the end."""
    if (other := _other_run(published_model(run), run.fold, run.workspace)) is not None:
        logger.warning(
            "%s holds the published student of the run in %s; that of this run is not published until the fold is removed or moved",
            published_model(run).fold_folder(run.fold),
            other,
        )


def refuse_taken_place(model: ModelLocation, fold: int | str, workspace: Path) -> None:
    """See that no other run's student stands where that of a run is to be published.

    Args:
        model: where it is to be published.
        fold: of the run.
        workspace: of the run, which may not have begun yet.

    Raises:
        StateError: if one does.
    """
    if (other := _other_run(model, fold, workspace)) is not None:
        raise StateError(
            f"{model.fold_folder(fold)} holds the published student of the run in {other}; to publish that of the run in {workspace} in "
            "its place, remove or move that fold and give the same command again."
        )


def _other_run(model: ModelLocation, fold: int | str, workspace: Path) -> Path | None:
    """The workspace of another run, one with another teacher, whose last student stands in a place.

    None where nothing stands there, or that run is gone, or is a control, which the next one may replace: what is wanted of it is the
    comparison. A fold's copy in the place of another fold is nobody's.
    """
    marker = model.fold_folder(fold) / PUBLISHED_MARKER
    named = read_json(marker).get("workspace") if marker.is_file() else None
    if named in (None, relative_workspace(workspace)):  # a marker of the first version may name none
        return None
    check_relative_path(named, "workspace", marker)
    place = results_root() / named
    other = Manifest.load(place)
    is_there = other is not None and other.control is None and (place_of_student(other), other.fold) == (model, fold)
    return place if is_there else None


def publish(run: Run) -> ModelLocation:
    """Link the last student's fold into the results of the labelled dataset, with its plans and dataset.json.

    Returns:
        The model that `nnUNetv2_predict -d <D>` uses.

    Raises:
        SetupError: if the last student is not trained.
        StateError: if a model that is not ours, or another run's student, stands at that place, the last student's checkpoint is damaged
            or carries code, or there is not enough space; or if another process changes the run.
    """
    with run.changing():
        return _publish(run)


def _publish(run: Run) -> ModelLocation:
    if not run.is_complete:
        written = len(run.manifest.stages)
        raise SetupError(f"the last stage is not written ({written} stages are); there is no last student to publish yet.")
    last = run.manifest.stages[-1].stage
    student, target = run.student(last), published_model(run)
    if not run.is_trained(last):
        raise SetupError(f"the student of the last stage ({last}) is not trained; run: {training_command(student, run.fold)}")
    load_checkpoint(student.checkpoint(run.fold))  # nnU-Net's commands, which use it from now on, would run code that it might carry
    source, fold = student.fold_folder(run.fold), target.fold_folder(run.fold)
    if _holds_another_model(fold):
        raise StateError(f"{fold} holds a model that nnunet-ssl did not publish; move it away first.")
    refuse_taken_place(target, run.fold, run.workspace)
    for folder in (fold, target.folder, run.workspace):
        remove_leftovers(folder)
    plans = {**read_json(student.folder / "plans.json"), "dataset_name": run.setup.dataset}
    copied = sum(path.stat().st_size for path in source.rglob("*") if path.is_file() and _is_rewritten(path, source))
    written = sum(len(json.dumps(content, indent=2)) for content in (plans, run.setup.dataset_json))
    require_free(fold, copied + written, "the published model")
    # the marker comes first, so that a publication that was cut off is known as ours
    marker = {
        "schema": PUBLISHED,
        "student": f"{student.dataset}/{student.name}/{fold_name(run.fold)}",
        "workspace": relative_workspace(run.workspace),
        "teacher_fingerprint": run.manifest.teacher_fingerprint,
    }
    write_json(fold / PUBLISHED_MARKER, marker)
    _link_tree(source, fold)
    write_json(target.folder / "plans.json", plans)
    write_json(target.folder / "dataset.json", run.setup.dataset_json)
    fingerprint = run.setup.preprocessed_folder / "dataset_fingerprint.json"
    if fingerprint.is_file():  # moved plans come without
        copy_file(fingerprint, target.folder / fingerprint.name)  # nnU-Net writes the labelled dataset's in place
    run.manifest.published = True
    run.manifest.save(run.workspace)
    return target


def _holds_another_model(fold: Path) -> bool:
    """Whether a fold holds anything, and no marker of ours; a publication that was cut off before it leaves nothing but our own files."""
    if not fold.exists() or (fold / PUBLISHED_MARKER).is_file():
        return False
    return any(not path.name.startswith(OWN_PREFIX) for path in fold.iterdir())


def _link_tree(source: Path, target: Path) -> None:
    """Link checkpoints and logs (copies without hard links), copy what nnU-Net writes in place; an earlier publication makes way."""
    for path in sorted(source.rglob("*")):
        if path.name.startswith(OWN_PREFIX):
            continue
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        if _is_rewritten(path, source):
            with replacing(place) as temporary:
                shutil.copyfile(path, temporary)
            continue
        place.unlink(missing_ok=True)
        link(path, place, may_be_symbolic=False)  # a training anew takes the student's checkpoint its name


def _is_rewritten(path: Path, fold: Path) -> bool:
    return path.relative_to(fold).parts[0] in _REWRITTEN
