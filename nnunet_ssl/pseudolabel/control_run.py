"""A control: a finished run again with one thing changed, from the same teacher, evidence and pool, under plans of its own."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.controls import CONTROLS
from nnunet_ssl.data.accepted_labels import FOLDER as ACCEPTED
from nnunet_ssl.data.changed_settings import changed_settings
from nnunet_ssl.data.files import link
from nnunet_ssl.data.held_out_use import uses_held_out
from nnunet_ssl.data.manifest import Manifest
from nnunet_ssl.data.workspace_lock import make_lock
from nnunet_ssl.errors import ConfigError, SetupError, StateError
from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.nnunet_api.checkpoints import fingerprint
from nnunet_ssl.nnunet_api.external_trainers import student_uses
from nnunet_ssl.nnunet_api.json_file import read_json
from nnunet_ssl.nnunet_api.load_setup import load_setup
from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.pseudolabel.control_plans import control_plans_name, lay_control_plans, write_unless_there
from nnunet_ssl.pseudolabel.dataset_ids import allot_ids, allotting
from nnunet_ssl.pseudolabel.run import Run

logger = logging.getLogger(__name__)


def control_method(run: Run, name: str) -> MethodConfig:
    """The settings of a control: those of the run with one thing changed, and with its fractions and epochs as they were.

    Args:
        run: a finished run.
        name: of `CONTROLS`.

    Raises:
        ConfigError: if the control would do what the run has done, or cannot repeat the run's stages.
    """
    method = run.method
    changed = method.with_settings(CONTROLS[name])
    if why := _why_the_same(run, method, changed, name):
        raise ConfigError(f"--control {name}: there is nothing to compare, since {why}.")
    if name == "all-at-once":  # one stage, with the steps of all
        total = sum(stage.num_epochs for stage in run.manifest.stages)
        return changed.with_settings({"curriculum.schedule": "fixed", "student.length.num_epochs": total})
    if _stages(changed) != _stages_as_written(run.manifest):
        changed = changed.with_settings(_as_it_went(run.manifest))
    if _stages(changed) != _stages_as_written(run.manifest):
        raise ConfigError(f"--control {name}: the number of epochs changed on the way of the run, which a control cannot repeat.")
    return changed


def _why_the_same(run: Run, method: MethodConfig, changed: MethodConfig, name: str) -> str | None:
    """Why a control would be the run again, in a clause; None where it would not."""
    stages = run.manifest.stages
    if changed == method:
        return f"the run has these settings itself ({', '.join(CONTROLS[name])})"
    if all(_is_unused(path, run.manifest.student_trainer) for path in CONTROLS[name]):
        return f"{run.manifest.student_trainer} does not use {', '.join(CONTROLS[name])}"
    if name == "no-calibration" and not (uses_held_out(method, run.fold) and run.held_out_cases):
        return "no held-out cases calibrate the confidence of this run"
    if name == "no-agreement" and not any(stage.agreement_weight for stage in stages):
        return "the labels of every stage of the run are the teacher's alone"
    if name == "all-at-once" and len(stages) == 1:
        return "the run has one stage itself"
    if name == "random-order" and [stage.fraction for stage in stages] == [1.0]:
        return "the run has one stage with the whole pool"
    if name == "random-order" and all(stage.order == "random" for stage in stages):
        return "held-out cases refute its ranking, so that its cases entered in random order"
    return None


def _is_unused(path: str, student_trainer: str) -> bool:
    """Whether a setting is one of the student's that its trainer does not heed."""
    section, _, name = path.partition(".")
    return section == "student" and not student_uses(student_trainer, name.partition(".")[0])


def _stages(method: MethodConfig) -> list[tuple[float, int]] | None:
    """Fraction and epochs of every stage; None where that is seen on the way."""
    if method.curriculum.schedule == "adaptive":
        return None
    epochs = method.curriculum.stage_epochs(method.student.length.num_epochs)
    return list(zip(method.curriculum.stage_fractions, epochs, strict=True))


def _stages_as_written(manifest: Manifest) -> list[tuple[float, int]]:
    return [(stage.fraction, stage.num_epochs) for stage in manifest.stages]


def _as_it_went(manifest: Manifest) -> dict[str, Any]:
    """The fixed schedule with the fractions and epochs that the run had in the end."""
    stages = manifest.stages
    total, last = sum(stage.num_epochs for stage in stages), stages[-1].num_epochs
    # half an epoch more for the early stages, so that rounding down finds what they had
    share = 1.0 if len(stages) == 1 else (last - 0.5) / total
    return {
        "curriculum.schedule": "fixed",
        "curriculum.fractions": [stage.fraction for stage in stages],
        "curriculum.last_stage_share": share,
        "student.length.num_epochs": total,
    }


def _warn_of_changed_settings(run: Run) -> None:
    """Say it where settings changed between the run's stages; the control has the last ones throughout."""
    if changed := changed_settings(run.manifest):
        logger.warning("%s changed on the way of the run; its control has the last value from the first stage on", ", ".join(changed))


def require_finished(run: Run, name: str) -> None:
    """See that there is something to compare with.

    Args:
        run: the run.
        name: of the control.

    Raises:
        SetupError: if its last student is not trained.
    """
    if not run.is_complete or not run.is_trained(run.manifest.stages[-1].stage):
        raise SetupError(
            f"--control {name} repeats a finished run; finish the one in {run.workspace} first, by the command without --control."
        )


def begin_control(run: Run, name: str) -> NnunetSetup:
    """Begin the control of a finished run, or find it.

    Under plans of its own the control has links to the teacher and its evidence, so that nothing but students is trained.

    Args:
        run: a run whose last student is trained.
        name: of `CONTROLS`.

    Returns:
        The set-up with the control's plans, under which it is a run like any other.

    Raises:
        SetupError: if the run is not finished.
        ConfigError: if the run is its own control.
        StateError: if a control of another run, or of an earlier one, stands there.
    """
    require_finished(run, name)
    method, plans_name = control_method(run, name), control_plans_name(run.setup.plans_name, name)
    teacher = replace(run.teacher, plans=plans_name)
    workspace, begun = teacher.workspace(run.fold), _manifest(run, method, plans_name, name)
    if (found := Manifest.load(workspace)) is not None:
        _check_same(found, begun, workspace)
    else:
        _warn_of_changed_settings(run)
        if any(record.accepted != run.accepted for record in run.manifest.stages):
            logger.warning(
                "the accepted labels of the run changed on its way; its control has those of the end from the first stage on, and so a "
                "small advantage"
            )
        with allotting():
            begun.dataset_ids = allot_ids(method.curriculum.num_stages, None)
            make_lock(workspace)
            begun.save(workspace)
    # the manifest is there first: it says that these plans and models are a control's
    lay_control_plans(run.setup, plans_name, method)
    setup = load_setup(run.setup.dataset, run.setup.configuration, plans_name)
    _link_models(run, setup)
    _link_workspace(run, workspace)
    return setup


def _manifest(run: Run, method: MethodConfig, plans_name: str, name: str) -> Manifest:
    """The manifest that a control begins with."""
    accepted = {case: replace(label, stage=1) for case, label in run.manifest.accepted.items()}
    kept = replace(run.manifest, plans=plans_name, method=method, accepted=accepted, control=name)
    return replace(kept, stages=[], dataset_ids=[], published=False)


def _check_same(found: Manifest, wanted: Manifest, workspace: Path) -> None:
    parts = ("teacher_fingerprint", "teacher_folds", "student_trainer", "pool", "method", "accepted", "groups", "left_out_groups")
    for part in parts:
        if getattr(found, part) != getattr(wanted, part):
            raise StateError(f"the control in {workspace} is of a run that had another {part}; remove {workspace} to begin it anew.")


def _link_models(run: Run, setup: NnunetSetup) -> None:
    """The teacher's folds under the control's plans, with what nnU-Net needs to open them; predictions leave no model."""
    for model in {run.teacher, run.start_model}:
        target = replace(model, plans=setup.plans_name)
        for fold in {run.fold, *run.manifest.teacher_folds}:
            _link_fold(model, target, fold)
        if model.folder.is_dir() and (model.folder / "plans.json").is_file():
            write_unless_there(target.folder / "plans.json", {**read_json(model.folder / "plans.json"), "plans_name": setup.plans_name})
            link(model.folder / "dataset.json", target.folder / "dataset.json")


def _link_fold(model: ModelLocation, target: ModelLocation, fold: int | str) -> None:
    places = [(model.checkpoint(fold), target.checkpoint(fold)), (model.validation_summary(fold), target.validation_summary(fold))]
    for source, place in places:
        if source.is_file():
            if place.is_file() and fingerprint(place) != fingerprint(source):
                place.unlink()  # of an attempt with another teacher that was cut off
            place.parent.mkdir(parents=True, exist_ok=True)
            link(source, place)


def _link_workspace(run: Run, workspace: Path) -> None:
    """Evidence of the teacher, on the pool and on held-out cases, and accepted labels."""
    stores = [*run.teacher_stores().values(), *run.held_out_stores().values()]
    folders = [*(store.folder for store in stores), run.workspace / ACCEPTED]
    for folder in folders:
        for source in sorted(path for path in folder.rglob("*") if path.is_file()):
            place = workspace / source.relative_to(run.workspace)
            place.parent.mkdir(parents=True, exist_ok=True)
            link(source, place)
