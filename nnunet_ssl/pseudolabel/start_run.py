"""Begin a run or find the one that is there."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.data.accepted_labels import FOLDER as ACCEPTED
from nnunet_ssl.data.manifest import KEPT_BY_STAGES, Manifest, PredictionsRecord
from nnunet_ssl.data.pool_images import refuse_labelled
from nnunet_ssl.data.pool_index import PoolIndex
from nnunet_ssl.data.workspace_lock import make_lock
from nnunet_ssl.data.writable_roots import require_writable_roots
from nnunet_ssl.errors import ConfigError, SetupError, StateError
from nnunet_ssl.locations import ModelLocation, dataset_number, plans_flag, start_over
from nnunet_ssl.nnunet_api.checkpoints import fingerprint_of_samples
from nnunet_ssl.nnunet_api.external_trainers import find_trainer
from nnunet_ssl.nnunet_api.model_data import refuse_other_images
from nnunet_ssl.nnunet_api.preprocessing import PARTS
from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.nnunet_api.trained_model import load_trained_model
from nnunet_ssl.nnunet_api.training_fold import check_model_of_fold, refuse_other_splits
from nnunet_ssl.nnunet_api.training_state import training_command
from nnunet_ssl.pseudolabel.dataset_ids import allot_ids, allotting
from nnunet_ssl.pseudolabel.predictions import identify_predictions
from nnunet_ssl.pseudolabel.publish import warn_of_other_run
from nnunet_ssl.pseudolabel.run import Run
from nnunet_ssl.pseudolabel.run_groups import (
    check_teacher_has_not_seen,
    groups_of_run,
    left_out_groups,
    still_left_out,
    without_groups,
)
from nnunet_ssl.pseudolabel.run_pool import known_pool, own_cases
from nnunet_ssl.pseudolabel.run_spec import RunSpec
from nnunet_ssl.pseudolabel.stage_ids import allot_again
from nnunet_ssl.pseudolabel.teacher_anew import refuse_training_anew

logger = logging.getLogger(__name__)


def open_run(spec: RunSpec, *, only_looks: bool = False) -> Run:
    """Open a run, or begin it.

    Args:
        spec: which run, and what is asked of it.
        only_looks: leave a manifest that is there as it is, even where stages get other ids.

    Raises:
        SetupError: if the teacher is not trained or its weights do not fit, the student's trainer does not exist, or no block of ids is
            free.
        StateError: if the run on disk belongs to another teacher, pool, curriculum or groups, its teacher is being trained anew, the
            teacher knows a group to be left out, splits or plans have changed since its training, an id that is asked for is in use, or
            a run that begins could not write into one of nnU-Net's folders.
        ConfigError: if a fold's run would use another fold's teacher, the settings do not fit the dataset, or the fold holds out no group.
        InputError: if a file of predictions, or the table of groups, is missing or unusable, or a case of the pool is labelled by now.
    """
    setup, workspace, found = spec.setup, spec.workspace, Manifest.load(spec.workspace)
    if found is not None:
        found.check_owner(workspace, dataset=setup.dataset, configuration=setup.configuration, plans=setup.plans_name, fold=spec.fold)
    pool = known_pool(setup, found, workspace)
    refuse_labelled(pool.images, setup)
    groups = groups_of_run(setup, pool, found, spec.groups, workspace)
    left_out = _left_out(spec, found, groups)
    pool = without_groups(pool, groups, left_out) if found is None else own_cases(pool, found, groups, workspace)
    method, student = spec.method_of(found), spec.student_of(found)
    _check_settings(setup, method)
    find_trainer(student)
    teacher = _identified(spec, found, pool, method)
    asked = Manifest(
        dataset=setup.dataset,
        configuration=setup.configuration,
        plans=setup.plans_name,
        fold=spec.fold,
        teacher_trainer=spec.teacher.trainer,
        teacher_folds=teacher.folds,
        teacher_fingerprint=teacher.fingerprint,
        student_trainer=student,
        pool=pool.case_ids,
        dataset_ids=[],
        method=method,
        predictions=teacher.predictions,
        groups=groups,
        left_out_groups=left_out,
    )
    manifest = found or _begin(spec, asked)
    _check_same_run(manifest, asked, workspace)
    run = Run(setup, pool, manifest, spec.teacher, method)
    if found is None:
        warn_of_other_run(run)
        _warn_of_labels_before(run)
    allot_again(run, method.curriculum.num_stages, spec.first_id, only_looks=only_looks)
    # like the settings, they are saved with the next stage, so that a mere look changes nothing
    manifest.predictions, manifest.groups = asked.predictions, asked.groups
    return run


def _left_out(spec: RunSpec, manifest: Manifest | None, groups: dict[str, str]) -> list[str]:
    """Groups that the run leaves out of its pool."""
    if spec.leave_group_out and spec.is_from_predictions:
        raise ConfigError("--leave-group-out needs a model as the teacher: what made the predictions may have seen any group.")
    if manifest is not None:
        return still_left_out(manifest, spec.workspace, asked=spec.leave_group_out)
    return left_out_groups(spec.setup, spec.fold, groups) if spec.leave_group_out else []


@dataclass(frozen=True)
class _Teacher:
    """What a manifest says of the teacher as it is now."""

    folds: list[int | str]
    fingerprint: str
    predictions: PredictionsRecord | None


def _identified(spec: RunSpec, manifest: Manifest | None, pool: PoolIndex, method: MethodConfig) -> _Teacher:
    """The teacher of a run, which must be there and fit; how little predictions promise is said when a run begins with them."""
    folds = spec.folds_of(manifest)
    if not spec.is_from_predictions:
        fingerprint = _teacher_fingerprint(spec.teacher, folds, method)
        _check_what_teachers_saw(spec.setup, spec.teacher, folds, begins=manifest is None)
        return _Teacher(folds, fingerprint, None)
    if manifest is None and not spec.predictions:
        raise SetupError(f"no run of fold {spec.fold} has begun with predictions; begin one with --from-predictions FOLDER.")
    if manifest is None and spec.fold != "all":
        logger.warning("figures of fold %s are honest only if what made the predictions has not seen its validation cases", spec.fold)
    record, fingerprint = identify_predictions(spec.setup, pool, manifest, spec.predictions, spec.teacher_trainer)
    return _Teacher(folds, fingerprint, record)


def _begin(spec: RunSpec, manifest: Manifest) -> Manifest:
    """Allot ids and save the manifest, or find the one that another process has saved meanwhile.

    Nothing is saved where the teacher cannot be used, has seen a group that is left out, or a folder cannot be written into.
    """
    require_writable_roots(manifest.dataset)
    for member in manifest.teacher_folds if manifest.predictions is None else ():
        load_trained_model(spec.teacher.folder, [member])
    if manifest.left_out_groups:
        check_teacher_has_not_seen(spec.teacher, spec.fold, manifest.groups, manifest.left_out_groups)
        logger.info("groups left out: %s; %d pool cases take part", ", ".join(manifest.left_out_groups), len(manifest.pool))
    with allotting():
        if (other := Manifest.load(spec.workspace)) is not None:
            return other
        manifest.dataset_ids = allot_ids(manifest.method.curriculum.num_stages, spec.first_id)
        make_lock(spec.workspace)
        manifest.save(spec.workspace)
    return manifest


def _warn_of_labels_before(run: Run) -> None:
    """Say, where a run begins, that its workspace keeps labels which a run before it accepted, and this one does not have."""
    folder = run.workspace / ACCEPTED
    kept = {path.name.removesuffix(PARTS[-1]) for path in folder.glob(f"[!.]*/*{PARTS[-1]}")}
    if left := kept.intersection(run.manifest.pool).difference(run.manifest.accepted):
        logger.warning(
            "%s holds labels of %d pool cases that a run before this one accepted; they are no part of this run unless they are given "
            "again: --accept with your folder of them, or with one that you copy them into from the subfolders there",
            folder,
            len(left),
        )


def _check_settings(setup: NnunetSetup, method: MethodConfig) -> None:
    """Refuse at once what would otherwise fail after hours of prediction."""
    method.curriculum.stage_epochs(method.student.length.num_epochs)
    if method.curriculum.schedule == "adaptive" and method.agreement.weight == 0:
        raise ConfigError("an adaptive schedule follows how much refined labels change; with agreement.weight 0 they never do.")
    tau = method.student.tau
    if isinstance(tau, tuple) and len(tau) != setup.heads:
        kind = "regions" if setup.has_regions else "classes with background"
        raise ConfigError(f"nnssl setting 'student.tau' has {len(tau)} thresholds; {setup.dataset} has {setup.heads} {kind}.")


def _check_what_teachers_saw(setup: NnunetSetup, teacher: ModelLocation, folds: Sequence[int | str], *, begins: bool) -> None:
    """See that each fold's teacher was trained on that fold, and by the splits and plans as they are now, which may change during a run."""
    refuse_other_images(teacher, setup)
    for fold in folds:
        if begins:  # later the fingerprint says that it is the same checkpoint
            check_model_of_fold(teacher, fold)
        refuse_other_splits(teacher, fold, setup.fold_cases(fold)[1], setup.file_ending)


def _teacher_fingerprint(teacher: ModelLocation, folds: Sequence[int | str], method: MethodConfig) -> str:
    for fold in folds:
        if not teacher.checkpoint(fold).is_file():
            refuse_training_anew(teacher, fold)
            missing, train = teacher.checkpoint(fold), training_command(teacher, fold)
            raise SetupError(f"the teacher of fold {fold} is not trained ({missing} is missing); run: {train}")
    return fingerprint_of_samples([teacher.checkpoint(fold) for fold in folds], method.evidence.num_samples)


def _check_same_run(manifest: Manifest, asked: Manifest, workspace: Path) -> None:
    """See that the run on disk is the one that is asked for.

    Args:
        manifest: of the run on disk.
        asked: as the run would begin now.
        workspace: of the run.
    """
    if manifest.teacher_fingerprint != asked.teacher_fingerprint and manifest.predictions is not None:
        raise StateError(
            f"the run in {workspace} began with other predictions ({', '.join(manifest.predictions.folders)}); {start_over(workspace)}."
        )
    if manifest.teacher_fingerprint != asked.teacher_fingerprint:
        raise StateError(
            f"the run in {workspace} used another teacher, or another number of samples, than there is now; {start_over(workspace)}."
        )
    if manifest.pool != asked.pool:
        raise StateError(f"another process has begun the run in {workspace} with other pool cases in the meantime; give the command again.")
    if manifest.student_trainer != asked.student_trainer:
        raise StateError(f"the run in {workspace} trains {manifest.student_trainer}, not {asked.student_trainer}; {start_over(workspace)}.")
    before = manifest.method.curriculum
    if manifest.stages and before != asked.method.curriculum:
        wanted = asked.method.by_path()
        fixed = [f"{path} = {json.dumps(value)}" for path, value in manifest.method.by_path().items() if value != wanted[path]]
        kept = ", ".join(setting for setting in fixed if setting.startswith("curriculum."))
        raise StateError(
            f"the curriculum of {workspace} is fixed since its first stage ({kept}); leave out what says otherwise, or "
            f"{start_over(workspace)}."
        )


def refuse_idle_settings(spec: RunSpec) -> None:
    """Refuse settings of the student that no stage would be written with, since all are written.

    Those that a run keeps from its beginning or its first stage on are refused elsewhere.

    Raises:
        ConfigError: for the first setting that differs from those of the run.
    """
    manifest, setup = Manifest.load(spec.workspace), spec.setup
    if manifest is None or not manifest.is_complete:
        return
    before, now = (config.by_path() for config in (manifest.method, spec.method_of(manifest)))
    for path, value in now.items():
        if value != before[path] and not path.startswith("curriculum.") and path != "evidence.num_samples":
            flags = f"-d {dataset_number(setup.dataset)} -c {setup.configuration} -f {spec.fold}{plans_flag(setup.plans_name)}"
            again = "" if path.startswith(KEPT_BY_STAGES) else "; to write a stage again: nnssl_pseudolabel with --stage T"
            raise ConfigError(
                f"{path} = {json.dumps(value)} would change nothing: every stage of the run in {spec.workspace} is written. To compare "
                f"with a control: nnssl_run {flags} -tr {spec.teacher.trainer} --control NAME{again}."
            )
