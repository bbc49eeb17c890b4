"""Begin a run or find the one that is there."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.data.accepted_labels import FOLDER as ACCEPTED
from nnunet_ssl.data.manifest import KEPT_BY_STAGES, Manifest, PredictionsRecord
from nnunet_ssl.data.pool_images import refuse_labelled
from nnunet_ssl.data.workspace_lock import make_lock
from nnunet_ssl.data.writable_roots import require_writable_roots
from nnunet_ssl.errors import ConfigError, SetupError, StateError
from nnunet_ssl.locations import PREDICTIONS, ModelLocation, dataset_number, plans_flag
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
from nnunet_ssl.pseudolabel.stage_ids import allot_again
from nnunet_ssl.pseudolabel.student_start import default_student
from nnunet_ssl.pseudolabel.teacher_anew import refuse_training_anew

logger = logging.getLogger(__name__)


def open_run(
    setup: NnunetSetup,
    fold: int | str,
    *,
    teacher_trainer: str,
    predictions: Sequence[Path] = (),
    teacher_folds: Sequence[int | str] | None = None,
    student_trainer: str | None = None,
    method: MethodConfig | None = None,
    first_id: int | None = None,
    groups: str | None = None,
    leave_group_out: bool = False,
    only_looks: bool = False,
) -> Run:
    """Open the run of a teacher and fold, or begin it.

    Args:
        setup: the labelled dataset and its plans.
        fold: 0, 1, ... (report mode) or `all` (final mode).
        teacher_trainer: class name of the teacher's trainer. With predictions, of the model whose weights stage 1 may start from;
            `predictions` finds the run that has begun with some.
        predictions: folders of predictions that are the teacher in place of a model, one per sample.
        teacher_folds: folds of the teacher whose evidence is averaged; only `-f all` may name others than its own fold. None takes the
            folds of the run that has begun, else `default_teacher_folds`.
        student_trainer: class name of the student's trainer; None takes the one with the teacher's network.
        method: settings; None takes the run's own, or the plans'.
        first_id: first id of the block of stage datasets, for stages that are not written; None takes the run's own, or the first free
            block from 601.
        groups: as `--groups` takes them; None takes the run's own, or those kept beside the pool.
        leave_group_out: leave out of the pool the groups that the fold validates on; a run that began so stays so.
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
    teacher = teacher_location(setup, teacher_trainer, predictions)
    workspace = teacher.workspace(fold)
    manifest = Manifest.load(workspace)
    begins = manifest is None
    if manifest is not None:
        manifest.check_owner(workspace, dataset=setup.dataset, configuration=setup.configuration, plans=setup.plans_name, fold=fold)
    pool = known_pool(setup, manifest, workspace)
    refuse_labelled(pool.images, setup)
    by_case = groups_of_run(setup, pool, manifest, groups, workspace)
    left_out = _left_out(setup, fold, teacher, manifest, by_case, workspace, asked=leave_group_out)
    pool = without_groups(pool, by_case, left_out) if manifest is None else own_cases(pool, manifest, by_case, workspace)
    settings = method or (MethodConfig.from_dict(manifest.method) if manifest else setup.method)
    _check_settings(setup, settings)
    student = student_trainer or (manifest.student_trainer if manifest else default_student(teacher_trainer))
    find_trainer(student)
    taken: PredictionsRecord | None = None
    if teacher.trainer == PREDICTIONS:
        _check_asked(fold, predictions, teacher_folds, manifest)
        folds = [fold]
        taken, teacher_print = identify_predictions(setup, pool, manifest, predictions, teacher_trainer)
    else:
        folds = list(teacher_folds or (manifest.teacher_folds if manifest else default_teacher_folds(setup, teacher, fold)))
        check_teacher_folds(setup, fold, folds)
        teacher_print = _teacher_fingerprint(teacher, folds, settings)
        _check_what_teachers_saw(setup, teacher, folds, begins=begins)
    if manifest is None:
        require_writable_roots(setup.dataset)
        for member in folds if taken is None else ():
            load_trained_model(teacher.folder, [member])  # a run must not begin with a teacher that cannot be used
        if left_out:
            check_teacher_has_not_seen(teacher, fold, by_case, left_out)
            logger.info("groups left out: %s; %d pool cases take part", ", ".join(left_out), len(pool.images))
        begun = Manifest(
            dataset=setup.dataset,
            configuration=setup.configuration,
            plans=setup.plans_name,
            fold=fold,
            teacher_trainer=teacher.trainer,
            teacher_folds=folds,
            teacher_fingerprint=teacher_print,
            student_trainer=student,
            pool=pool.case_ids,
            dataset_ids=[],
            method=settings.to_dict(),
            predictions=taken,
            groups=by_case,
            left_out_groups=left_out,
        )
        manifest = _begin(begun, workspace, settings.curriculum.num_stages, first_id)
    _check_same_run(manifest, fold, pool.case_ids, teacher_print, student, settings, str(workspace))
    run = Run(setup, pool, manifest, teacher)
    if begins:
        warn_of_other_run(run)
        _warn_of_labels_before(run)
    allot_again(run, settings.curriculum.num_stages, first_id, only_looks=only_looks)
    # changed settings are saved with the next stage that is written by them, so that a mere look changes nothing
    manifest.method, manifest.predictions, manifest.groups = settings.to_dict(), taken, by_case
    return run


def _left_out(
    setup: NnunetSetup,
    fold: int | str,
    teacher: ModelLocation,
    manifest: Manifest | None,
    groups: dict[str, str],
    workspace: Path,
    *,
    asked: bool,
) -> list[str]:
    """Groups that the run leaves out of its pool."""
    if asked and teacher.trainer == PREDICTIONS:
        raise ConfigError("--leave-group-out needs a model as the teacher: what made the predictions may have seen any group.")
    if manifest is not None:
        return still_left_out(manifest, workspace, asked=asked)
    return left_out_groups(setup, fold, groups) if asked else []


def _begin(manifest: Manifest, workspace: Path, num_stages: int, first_id: int | None) -> Manifest:
    """Allot ids and save the manifest, or find the one that another process has saved meanwhile."""
    with allotting():
        if (other := Manifest.load(workspace)) is not None:
            return other
        manifest.dataset_ids = allot_ids(num_stages, first_id)
        make_lock(workspace)
        manifest.save(workspace)
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


def teacher_location(setup: NnunetSetup, teacher_trainer: str, predictions: Sequence[Path] = ()) -> ModelLocation:
    """Where the teacher of a set-up stands; predictions have a place of their own, in which only the workspace lies."""
    trainer = PREDICTIONS if predictions else teacher_trainer
    return ModelLocation(dataset=setup.dataset, trainer=trainer, plans=setup.plans_name, configuration=setup.configuration)


def default_teacher_folds(setup: NnunetSetup, teacher: ModelLocation, fold: int | str) -> list[int | str]:
    """Folds of the teacher that a new run uses: in fold mode that fold; in final mode (`all`) every fold of the labelled dataset's splits.

    Such cross-fitted teachers leave every labelled case unseen by one of them. A teacher that is trained on all labels already, where the
    folds are not, is taken as it is; so is one that must be, since there are too few cases for splits.
    """
    if fold != "all":
        return [fold]
    try:
        folds: list[int | str] = list(range(len(setup.splits())))
    except SetupError:
        return ["all"]
    has_folds = all(teacher.checkpoint(k).is_file() for k in folds)
    return ["all"] if teacher.checkpoint("all").is_file() and not has_folds else folds


def check_teacher_folds(setup: NnunetSetup, fold: int | str, folds: Sequence[int | str]) -> None:
    """See that the folds exist, and that a fold's run uses that fold's teacher alone; final mode (`all`) may use any.

    Raises:
        ConfigError: if a fold's run would use another fold's teacher.
        SetupError: if a fold is not in the splits, for which nnU-Net would train a random split of its own.
    """
    if fold != "all" and list(folds) != [fold]:
        raise ConfigError(f"fold {fold} may only use the teacher of fold {fold}: another fold's teacher has seen its validation cases.")
    for each in folds:
        setup.fold_cases(each)


def _check_asked(
    fold: int | str, predictions: Sequence[Path], teacher_folds: Sequence[int | str] | None, manifest: Manifest | None
) -> None:
    """Refuse what predictions do not have, and say what they cannot promise when a run begins with them."""
    if teacher_folds:
        raise ConfigError("--teacher-folds names folds of a model; predictions have none: leave it out.")
    if manifest is None and not predictions:
        raise SetupError(f"no run of fold {fold} has begun with predictions; begin one with --from-predictions FOLDER.")
    if manifest is None and fold != "all":
        logger.warning("figures of fold %s are honest only if what made the predictions has not seen its validation cases", fold)


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


def _check_same_run(
    manifest: Manifest,
    fold: int | str,
    pool: list[str],
    teacher_print: str,
    student_trainer: str,
    method: MethodConfig,
    workspace: str,
) -> None:
    start_over = f"remove {workspace}/manifest.json to start over"
    if str(manifest.fold) != str(fold):
        raise StateError(f"the run in {workspace} is of fold {manifest.fold}, not of fold {fold}; {start_over}.")
    if manifest.teacher_fingerprint != teacher_print and manifest.predictions is not None:
        raise StateError(f"the run in {workspace} began with other predictions ({', '.join(manifest.predictions.folders)}); {start_over}.")
    if manifest.teacher_fingerprint != teacher_print:
        raise StateError(f"the run in {workspace} used another teacher, or another number of samples, than there is now; {start_over}.")
    if manifest.pool != pool:
        raise StateError(f"another process has begun the run in {workspace} with other pool cases in the meantime; give the command again.")
    if manifest.student_trainer != student_trainer:
        raise StateError(f"the run in {workspace} trains {manifest.student_trainer}, not {student_trainer}; {start_over}.")
    before = MethodConfig.from_dict(manifest.method)
    if manifest.stages and before.curriculum != method.curriculum:
        raise StateError(f"the curriculum of {workspace} is fixed since its first stage ({before.curriculum}); {start_over}.")


def refuse_idle_settings(setup: NnunetSetup, teacher: ModelLocation, fold: int | str, method: MethodConfig) -> None:
    """Refuse settings of the student that no stage would be written with, since all are written.

    Those that a run keeps from its beginning or its first stage on are refused elsewhere.

    Raises:
        ConfigError: for the first setting that differs from those of the run.
    """
    manifest = Manifest.load(teacher.workspace(fold))
    if manifest is None or not manifest.stages or not manifest.stages[-1].is_last:
        return
    before, now = (config.by_path() for config in (MethodConfig.from_dict(manifest.method), method))
    for path, value in now.items():
        if value != before[path] and not path.startswith("curriculum.") and path != "evidence.num_samples":
            number, plans = dataset_number(setup.dataset), plans_flag(setup.plans_name)
            again = "" if path.startswith(KEPT_BY_STAGES) else "; to write a stage again: nnssl_pseudolabel with --stage T"
            raise ConfigError(
                f"{path} = {json.dumps(value)} would change nothing: every stage of the run in {teacher.workspace(fold)} is written. To "
                f"compare with a control: nnssl_run -d {number} -c {setup.configuration} -f {fold}{plans} -tr {teacher.trainer} --control "
                f"NAME{again}."
            )


def settings_in_force(setup: NnunetSetup, teacher_trainer: str, fold: int | str, predictions: Sequence[Path] = ()) -> MethodConfig:
    """The settings of the run that has begun, or the plans' where none has."""
    manifest = Manifest.load(teacher_location(setup, teacher_trainer, predictions).workspace(fold))
    return MethodConfig.from_dict(manifest.method) if manifest else setup.method
