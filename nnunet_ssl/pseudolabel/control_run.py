"""A control: a finished run again with one thing changed, from the same teacher, evidence and pool, under plans of its own."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.controls import CONTROLS
from nnunet_ssl.data.accepted_labels import FOLDER as ACCEPTED
from nnunet_ssl.data.files import link, remove_leftovers, write_json
from nnunet_ssl.data.manifest import Manifest
from nnunet_ssl.data.overlay import preset_plans_name
from nnunet_ssl.errors import ConfigError, SetupError, StateError
from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.nnunet_api.checkpoints import fingerprint
from nnunet_ssl.nnunet_api.json_file import read_json
from nnunet_ssl.nnunet_api.load_setup import load_setup
from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.pseudolabel.dataset_ids import allot_ids, allotting
from nnunet_ssl.pseudolabel.run import Run

logger = logging.getLogger(__name__)


def control_method(manifest: Manifest, name: str) -> MethodConfig:
    """The settings of a control: those of the run with one thing changed, and with its stages, steps and fractions as they were.

    Args:
        manifest: of a finished run.
        name: of `CONTROLS`.

    Raises:
        ConfigError: if the run has that setting already.
    """
    method = MethodConfig.from_dict(manifest.method)
    changed = method.with_settings(CONTROLS[name])
    if changed == method:
        settings = ", ".join(CONTROLS[name])
        raise ConfigError(f"--control {name}: the run has these settings itself ({settings}), so that there is nothing to compare.")
    if changed.curriculum.schedule == "adaptive":
        changed = changed.with_settings(_as_it_went(manifest))
    return changed


def _as_it_went(manifest: Manifest) -> dict[str, Any]:
    """The fixed schedule with the fractions and epochs that an adaptive one has led to."""
    stages = manifest.stages
    total, last = sum(stage.num_epochs for stage in stages), stages[-1].num_epochs
    # half an epoch more for the early stages, so that rounding down finds what they had
    share = 1.0 if len(stages) == 1 else (last - 0.5) / total
    return {
        "curriculum.schedule": "fixed",
        "curriculum.fractions": [stage.fraction for stage in stages],
        "curriculum.last_stage_share": share,
    }


def control_plans_name(plans: str, name: str) -> str:
    """Plans name of a control, for instance `nnUNetPlans_nnssl_control_random_order`."""
    return preset_plans_name(plans, f"control_{name.replace('-', '_')}")


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
    if not run.is_complete or not run.is_trained(run.manifest.stages[-1].stage):
        raise SetupError(
            f"--control {name} repeats a finished run; finish the one in {run.workspace} first, by the command without --control."
        )
    method, plans_name = control_method(run.manifest, name), control_plans_name(run.setup.plans_name, name)
    teacher = replace(run.teacher, plans=plans_name)
    workspace, begun = teacher.workspace(run.fold), _manifest(run, method, plans_name)
    if (found := Manifest.load(workspace)) is not None:
        _check_same(found, begun, workspace)
    _lay_plans(run.setup, plans_name, method)
    setup = load_setup(run.setup.dataset, run.setup.configuration, plans_name)
    _link_models(run, setup)
    _link_workspace(run, workspace)
    if found is None:
        if any(label.stage > 1 for label in run.manifest.accepted.values()):
            logger.warning("the run got accepted labels on its way; its control has them from the first stage on, and so a small advantage")
        with allotting():
            begun.dataset_ids = allot_ids(method.curriculum.num_stages, None)
            begun.save(workspace)
    return setup


def _manifest(run: Run, method: MethodConfig, plans_name: str) -> Manifest:
    """The manifest that a control begins with."""
    accepted = {case: replace(label, stage=1) for case, label in run.manifest.accepted.items()}
    kept = replace(run.manifest, plans=plans_name, method=method.to_dict(), accepted=accepted)
    return replace(kept, stages=[], dataset_ids=[], published=False)


def _check_same(found: Manifest, wanted: Manifest, workspace: Path) -> None:
    for part in ("teacher_fingerprint", "teacher_folds", "student_trainer", "pool", "method", "accepted"):
        if getattr(found, part) != getattr(wanted, part):
            raise StateError(f"the control in {workspace} is of a run that had another {part}; remove {workspace} to begin it anew.")


def _lay_plans(setup: NnunetSetup, plans_name: str, method: MethodConfig) -> None:
    """The run's plans with the control's settings, beside them; the teacher's section stays."""
    plans = copy.deepcopy(setup.plans)
    configuration: dict[str, Any] = copy.deepcopy(setup.configuration_manager.configuration)  # `inherits_from` resolved
    configuration.pop("inherits_from", None)
    configuration["nnssl"] = method.to_dict()
    plans["configurations"][setup.configuration] = configuration
    plans["plans_name"] = plans_name
    _write(setup.preprocessed_folder / f"{plans_name}.json", plans)


def _link_models(run: Run, setup: NnunetSetup) -> None:
    """The teacher's folds under the control's plans, with what nnU-Net needs to open them; predictions leave no model."""
    for model in {run.teacher, run.start_model}:
        target = replace(model, plans=setup.plans_name)
        for fold in {run.fold, *run.manifest.teacher_folds}:
            _link_fold(model, target, fold)
        if model.folder.is_dir() and (model.folder / "plans.json").is_file():
            _write(target.folder / "plans.json", {**read_json(model.folder / "plans.json"), "plans_name": setup.plans_name})
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


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON unless it stands there already."""
    if not (path.is_file() and read_json(path) == content):
        remove_leftovers(path.parent)
        write_json(path, content)
