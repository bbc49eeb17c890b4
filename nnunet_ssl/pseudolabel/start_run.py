"""Begin a run or find the one that is there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.data.manifest import Manifest
from nnunet_ssl.data.pool import load_pool
from nnunet_ssl.errors import ConfigError, SetupError, StateError
from nnunet_ssl.locations import ModelLocation, preprocessed_root, raw_root, results_root
from nnunet_ssl.nnunet_api.checkpoints import fingerprint
from nnunet_ssl.nnunet_api.external_trainers import find_trainer
from nnunet_ssl.nnunet_api.setup import NnunetSetup, read_json
from nnunet_ssl.pseudolabel.run import Run
from nnunet_ssl.pseudolabel.student_start import default_student

FIRST_ID = 601
LAST_ID = 999


def open_run(
    setup: NnunetSetup,
    fold: int | str,
    *,
    teacher_trainer: str,
    teacher_folds: Sequence[int | str] | None = None,
    student_trainer: str | None = None,
    method: MethodConfig | None = None,
    first_id: int | None = None,
) -> Run:
    """Open the run of a teacher and fold, or begin it.

    Args:
        setup: the labelled dataset and its plans.
        fold: 0, 1, ... (report mode) or `all` (final mode).
        teacher_trainer: class name of the teacher's trainer.
        teacher_folds: folds of the teacher whose evidence is averaged; only `-f all` may name others than its own fold. None takes the
            folds of the run that has begun, else `default_teacher_folds`.
        student_trainer: class name of the student's trainer; None takes the one with the teacher's network.
        method: settings; None takes the run's own, or the plans'.
        first_id: first id of the block of stage datasets; None takes the first free block from 601.

    Raises:
        SetupError: if the teacher is not trained, the student's trainer does not exist, or no block of ids is free.
        StateError: if the run on disk belongs to another teacher, pool or curriculum.
        ConfigError: if a fold's run would use another fold's teacher, or the settings do not fit the dataset.
    """
    teacher = ModelLocation(dataset=setup.dataset, trainer=teacher_trainer, plans=setup.plans_name, configuration=setup.configuration)
    pool, workspace = load_pool(setup), teacher.workspace(fold)
    manifest = Manifest.load(workspace)
    folds = list(teacher_folds) if teacher_folds else manifest.teacher_folds if manifest else default_teacher_folds(setup, teacher, fold)
    check_teacher_folds(fold, folds)
    settings = method or (MethodConfig.from_dict(manifest.method) if manifest else setup.method)
    _check_settings(setup, settings)
    teacher_print = _teacher_fingerprint(teacher, folds, settings)
    if manifest is None:
        student_trainer = student_trainer or default_student(teacher_trainer)
        find_trainer(student_trainer)
        manifest = Manifest(
            dataset=setup.dataset,
            configuration=setup.configuration,
            plans=setup.plans_name,
            fold=fold,
            teacher_trainer=teacher_trainer,
            teacher_folds=folds,
            teacher_fingerprint=teacher_print,
            student_trainer=student_trainer,
            pool=pool.case_ids,
            dataset_ids=_allot_ids(settings.curriculum.num_stages, first_id),
            method=settings.to_dict(),
        )
        manifest.save(workspace)
        return Run(setup, pool, manifest, teacher)
    _check_same_run(manifest, pool.case_ids, teacher_print, student_trainer, settings, str(workspace))
    # changed settings are saved with the next stage that is written by them, so that a mere look changes nothing
    manifest.method = settings.to_dict()
    if settings.curriculum.num_stages > len(manifest.dataset_ids):  # only while no stage is written
        manifest.dataset_ids = _allot_ids(settings.curriculum.num_stages, first_id, own=manifest.dataset_ids)
    return Run(setup, pool, manifest, teacher)


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


def check_teacher_folds(fold: int | str, folds: Sequence[int | str]) -> None:
    """See that a fold's run uses that fold's teacher alone; final mode (`all`) may use any.

    Raises:
        ConfigError: if not.
    """
    if fold != "all" and list(folds) != [fold]:
        raise ConfigError(f"fold {fold} may only use the teacher of fold {fold}: another fold's teacher has seen its validation cases.")


def _check_settings(setup: NnunetSetup, method: MethodConfig) -> None:
    """Refuse at once what would otherwise fail after hours of prediction."""
    method.curriculum.stage_epochs(method.student.length.num_epochs)
    if method.curriculum.schedule == "adaptive" and method.agreement.weight == 0:
        raise ConfigError("an adaptive schedule follows how much refined labels change; with agreement.weight 0 they never do.")
    tau = method.student.tau
    if isinstance(tau, tuple) and len(tau) != setup.heads:
        kind = "regions" if setup.has_regions else "classes with background"
        raise ConfigError(f"nnssl setting 'student.tau' has {len(tau)} thresholds; {setup.dataset} has {setup.heads} {kind}.")


def _teacher_fingerprint(teacher: ModelLocation, folds: Sequence[int | str], method: MethodConfig) -> str:
    for fold in folds:
        if not teacher.checkpoint(fold).is_file():
            number = int(teacher.dataset[7:10])
            plans = "" if teacher.plans == "nnUNetPlans" else f" -p {teacher.plans}"
            raise SetupError(
                f"the teacher of fold {fold} is not trained ({teacher.checkpoint(fold)} is missing); run: "
                f"nnUNetv2_train {number} {teacher.configuration} {fold} -tr {teacher.trainer}{plans}"
            )
    prints = [fingerprint(teacher.checkpoint(fold)) for fold in folds]
    content = json.dumps([prints, method.evidence.num_samples])
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _check_same_run(
    manifest: Manifest, pool: list[str], teacher_print: str, student_trainer: str | None, method: MethodConfig, workspace: str
) -> None:
    start_over = f"remove {workspace} to start over"
    if manifest.teacher_fingerprint != teacher_print:
        raise StateError(f"the run in {workspace} used another teacher, or another number of samples, than there is now; {start_over}.")
    if manifest.pool != pool:
        raise StateError(
            f"the run in {workspace} has {len(manifest.pool)} pool cases, the prepared pool {len(pool)} or others; {start_over}."
        )
    if student_trainer is not None and manifest.student_trainer != student_trainer:
        raise StateError(f"the run in {workspace} trains {manifest.student_trainer}, not {student_trainer}; {start_over}.")
    before = MethodConfig.from_dict(manifest.method)
    if manifest.stages and before.curriculum != method.curriculum:
        raise StateError(f"the curriculum of {workspace} is fixed since its first stage ({before.curriculum}); {start_over}.")


def _allot_ids(count: int, first_id: int | None, own: Sequence[int] = ()) -> list[int]:
    """A block of `count` consecutive dataset ids that no folder of nnU-Net uses; `own` is what the run has already."""
    taken = {
        int(folder.name[7:10])
        for root in (raw_root(), preprocessed_root(), results_root())
        if root.is_dir()
        for folder in root.glob("Dataset[0-9][0-9][0-9]_*")
    }
    for manifest in results_root().glob("*/*/fold_*/nnssl/manifest.json"):  # blocks of other runs, whether written yet or not
        taken |= set(read_json(manifest).get("dataset_ids", []))
    taken -= set(own)
    if first_id is not None:
        block = list(range(first_id, first_id + count))
        if clash := sorted(taken & set(block)):
            raise StateError(f"the dataset id {clash[0]} is already in use; choose another --first-id.")
        if first_id < 1 or block[-1] > LAST_ID:
            raise ConfigError(f"--first-id {first_id} with {count} stages leaves the range 1 to {LAST_ID} of nnU-Net's ids.")
        return block
    for start in range(FIRST_ID, LAST_ID + 2 - count):
        if not taken & set(range(start, start + count)):
            return list(range(start, start + count))
    raise SetupError(f"no {count} consecutive dataset ids are free from {FIRST_ID} on; choose a block with --first-id.")


def settings_in_force(setup: NnunetSetup, teacher_trainer: str, fold: int | str) -> MethodConfig:
    """The settings of the run that has begun, or the plans' where none has."""
    teacher = ModelLocation(dataset=setup.dataset, trainer=teacher_trainer, plans=setup.plans_name, configuration=setup.configuration)
    manifest = Manifest.load(teacher.workspace(fold))
    return MethodConfig.from_dict(manifest.method) if manifest else setup.method
