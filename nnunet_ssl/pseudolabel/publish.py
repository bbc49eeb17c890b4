"""Make the last student a model of the user's own dataset, for stock inference."""

from __future__ import annotations

import json
from pathlib import Path

from nnunet_ssl.data.files import OWN_PREFIX, link, remove_leftovers, write_json
from nnunet_ssl.disk import require_free
from nnunet_ssl.errors import SetupError, StateError
from nnunet_ssl.locations import PUBLISHED_MARKER, ModelLocation, fold_name, results_root
from nnunet_ssl.nnunet_api.checkpoints import load_checkpoint
from nnunet_ssl.nnunet_api.json_file import read_json
from nnunet_ssl.nnunet_api.training_state import training_command
from nnunet_ssl.pseudolabel.run import Run
from nnunet_ssl.schemas import PUBLISHED


def published_model(run: Run) -> ModelLocation:
    """Where the published model stands."""
    return ModelLocation(
        dataset=run.setup.dataset,
        trainer=run.manifest.student_trainer,
        plans=run.setup.plans_name,
        configuration=run.setup.configuration,
    )


def is_published(run: Run) -> bool:
    """Whether the model's fold is this run's last student; a copy of another fold, or of another run's student, is not."""
    model = published_model(run)
    marker = model.fold_folder(run.fold) / PUBLISHED_MARKER
    if not (run.manifest.published and model.checkpoint(run.fold).is_file() and marker.is_file()):
        return False
    student = run.student(run.manifest.stages[-1].stage)
    if student.validation_summary(run.fold).is_file() and not model.validation_summary(run.fold).is_file():
        return False  # the student was validated later
    return bool(read_json(marker).get("workspace") == _relative_workspace(run))


def _relative_workspace(run: Run) -> str:
    return run.workspace.relative_to(results_root()).as_posix()


def publish(run: Run) -> ModelLocation:
    """Link the last student's fold into the results of the labelled dataset, with its plans and dataset.json.

    Returns:
        The model that `nnUNetv2_predict -d <D>` uses.

    Raises:
        SetupError: if the last student is not trained.
        StateError: if a model that is not ours stands at that place, the last student's checkpoint is damaged or carries code, or
            there is not enough space; or if another process changes the run.
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
    if fold.exists() and not (fold / PUBLISHED_MARKER).is_file():
        raise StateError(f"{fold} holds a model that nnunet-ssl did not publish; move it away first.")
    for folder in (fold, target.folder, run.workspace):
        remove_leftovers(folder)
    plans = {**read_json(student.folder / "plans.json"), "dataset_name": run.setup.dataset}
    require_free(fold, sum(len(json.dumps(content, indent=2)) for content in (plans, run.setup.dataset_json)), "the published model")
    # the marker comes first, so that a publication that was cut off is known as ours
    marker = {
        "schema": PUBLISHED,
        "student": f"{student.dataset}/{student.name}/{fold_name(run.fold)}",
        "workspace": _relative_workspace(run),
        "teacher_fingerprint": run.manifest.teacher_fingerprint,
    }
    write_json(fold / PUBLISHED_MARKER, marker)
    _link_tree(source, fold)
    write_json(target.folder / "plans.json", plans)
    write_json(target.folder / "dataset.json", run.setup.dataset_json)
    fingerprint = run.setup.preprocessed_folder / "dataset_fingerprint.json"
    if fingerprint.is_file():  # moved plans come without
        link(fingerprint, target.folder / fingerprint.name)
    run.manifest.published = True
    run.manifest.save(run.workspace)
    return target


def _link_tree(source: Path, target: Path) -> None:
    """Link checkpoints, logs and the validation folder; files of an earlier publication make way."""
    for path in sorted(source.rglob("*")):
        if path.name.startswith(OWN_PREFIX):
            continue
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        link(path, place)
