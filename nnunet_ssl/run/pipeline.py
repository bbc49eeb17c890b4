"""The whole method as a list of steps, each of which knows from the files on disk whether it is done."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from nnunet_ssl.data.manifest import Manifest
from nnunet_ssl.data.pool import pool_is_current, prepare_pool
from nnunet_ssl.errors import WRITE_AGAIN, SetupError, StateError
from nnunet_ssl.locations import STAGE_SIDECAR, dataset_number, device_flag, plans_flag, preprocessed_root, stage_dataset_name
from nnunet_ssl.machines.engine import engine_at
from nnunet_ssl.nnunet_api.external_trainers import find_trainer, is_our_teacher, trains_uncertainty_head
from nnunet_ssl.nnunet_api.training_state import checkpoint_to_open, is_trained_and_validated, training_command
from nnunet_ssl.nnunet_api.validation_summary import has_probabilities
from nnunet_ssl.pseudolabel.grow import grow
from nnunet_ssl.pseudolabel.publish import is_published, publish, published_model
from nnunet_ssl.pseudolabel.run import Run
from nnunet_ssl.pseudolabel.stage_ids import ids_of_stages
from nnunet_ssl.pseudolabel.teacher_anew import refuse_training_anew
from nnunet_ssl.run.flags_not_kept import flags_not_kept
from nnunet_ssl.run.group_steps import group_steps
from nnunet_ssl.run.label_steps import accept_step, predictions_step
from nnunet_ssl.run.models_there import flags_of_trained_models
from nnunet_ssl.run.one_step import TEACHER
from nnunet_ssl.run.run_request import RunRequest, Step
from nnunet_ssl.run.training_process import train
from nnunet_ssl.run.training_progress import training_progress
from nnunet_ssl.run.training_size import require_training_room, student_bytes, teacher_bytes

logger = logging.getLogger(__name__)


def teacher_epochs(request: RunRequest) -> int | None:
    """Epochs of the teacher where they are ours to say, for the progress bar."""
    if not is_our_teacher(request.teacher_trainer):
        return None
    teacher = request.setup.method.teacher
    return teacher.length.num_epochs + teacher.distillation_epochs


def student_epochs(run: Run, stage: int) -> int:
    """Epochs of a stage's training, with the phases that follow in the last stage."""
    record, student = run.manifest.stages[stage - 1], run.method.student
    epochs = record.num_epochs
    if not record.is_last:
        return epochs
    trainer, network = find_trainer(run.manifest.student_trainer), run.setup.configuration_manager.network_arch_class_name
    has_head = trains_uncertainty_head(trainer, str(network))
    return epochs + student.fine_tune_epochs + (student.distillation_epochs if has_head else 0)


def pipeline(request: RunRequest) -> list[Step]:
    """Every step of a run, in order."""
    settings = request.method
    number, configuration = dataset_number(request.setup.dataset), request.setup.configuration
    logs = request.workspace / "logs"
    plans = plans_flag(request.setup.plans_name)
    grow_line = f"nnssl_pseudolabel -d {number} -c {configuration} -f {request.fold}{plans} -tr {request.teacher_trainer}"
    if request.predictions:
        grow_line += f" --from-predictions {shlex.join(map(str, request.predictions))}"
    grow_line += flags_not_kept(request) + device_flag(request.device)
    dask = "" if request.dask is None else f" --dask {shlex.quote(request.dask)}"
    grow_line += dask
    prepare_line = f"nnssl_prepare -d {number} -c {configuration}{plans}"
    steps: list[Step] = []
    if request.unlabelled:
        folders = shlex.join(map(str, request.unlabelled))
        steps.append(
            Step(
                "prepare the pool",
                f"{prepare_line} -u {folders}{' --skip-bad' if request.skip_bad else ''}{dask}",
                lambda: pool_is_current(request.setup, request.unlabelled),
                _prepare(request),
                is_before_stages=True,
                key="pool",
            )
        )
    steps += group_steps(request, prepare_line, grow_line)
    if request.is_from_predictions:
        steps.append(predictions_step(request, grow_line))
    else:
        steps += [_teacher_step(request, fold, logs) for fold in request.folds]
    if request.accept is not None:
        steps.append(accept_step(request, request.accept, grow_line))
    for stage in range(1, settings.curriculum.num_stages + 1):
        steps.append(
            Step(f"write stage {stage}", grow_line, _written(request, stage), _grow(request), key=f"stage-{stage}", uses_device=True)
        )
        steps.append(
            Step(
                f"train student {stage}",
                _student_command(request, stage),
                _student_done(request, stage),
                _train_student(request, stage, logs),
                key=f"student-{stage}",
                uses_device=True,
                progress=_student_progress(request, stage),
            )
        )
    steps.append(Step("publish the last student", grow_line, _published(request), lambda: _publish(request), key="publish"))
    return steps


def _student_command(request: RunRequest, stage: int) -> str:
    """The command that trains a student, with STAGE_ID while the run has not begun, and so has no ids for its stages."""
    manifest, setup = Manifest.load(request.workspace), request.setup
    ids = [] if manifest is None else ids_of_stages(manifest, request.method.curriculum.num_stages, request.first_id)
    if manifest is None or stage > len(ids):
        flags = f"-tr {request.student}{plans_flag(setup.plans_name)}{device_flag(request.device)}"
        return f"nnUNetv2_train STAGE_ID {setup.configuration} {request.fold} {flags}"
    name = stage_dataset_name(ids[stage - 1], manifest.dataset, manifest.fold, stage)
    npz = stage <= len(manifest.stages) and _wants_npz(request, manifest, stage)
    student = replace(manifest.student_on(name), trainer=request.student)
    return training_command(student, request.fold, npz=npz, device=request.device)


def execute(steps: Sequence[Step]) -> None:
    """Do every step that is not done, in order."""
    for number, step in enumerate(steps, start=1):
        if step.is_done():
            logger.info("[%d/%d] %s: done before", number, len(steps), step.name)
            continue
        logger.info("[%d/%d] %s", number, len(steps), step.name)
        step.work()


def _prepare(request: RunRequest) -> Callable[[], None]:
    def work() -> None:
        skip_bad, num_processes = request.skip_bad, request.num_processes
        with engine_at(request.dask) as engine:
            prepare_pool(request.setup, request.unlabelled, skip_bad=skip_bad, num_processes=num_processes, engine=engine)

    return work


def _teacher_step(request: RunRequest, fold: int | str, logs: Path) -> Step:
    log = logs / f"teacher_fold_{fold}.txt"
    return Step(
        f"train the teacher (fold {fold})",
        training_command(request.teacher, fold, device=request.device),
        _teacher_done(request, fold, log),
        _train_teacher(request, fold, log),
        is_before_stages=True,
        key=TEACHER if len(request.folds) == 1 else f"{TEACHER}-{fold}",
        uses_device=True,
        progress=lambda: training_progress(request.teacher, fold, teacher_epochs(request)),
    )


def _teacher_done(request: RunRequest, fold: int | str, log: Path) -> Callable[[], bool]:
    if is_our_teacher(request.teacher_trainer) or log.is_file():
        return lambda: is_trained_and_validated(request.teacher, fold)
    # a stock model that no run has trained is taken as it is: whether its user validated it is not our business
    return lambda: request.teacher.checkpoint(fold).is_file()


def _train_teacher(request: RunRequest, fold: int | str, log: Path) -> Callable[[], None]:
    def work() -> None:
        refuse_training_anew(request.teacher, fold)
        others = flags_of_trained_models(request.teacher, fold)
        if others and checkpoint_to_open(request.teacher, fold) is None:
            given = training_command(request.teacher, fold, device=request.device)
            logger.warning("a new teacher is trained (%s); to use one that is there, stop and give instead: %s", given, " or ".join(others))
        require_training_room(request.teacher, fold, teacher_bytes(request.setup, request.method, request.teacher_trainer, fold))
        train(request.teacher, fold, device=request.device, log=log, epochs=teacher_epochs(request))

    return work


def _written(request: RunRequest, stage: int) -> Callable[[], bool]:
    def is_done() -> bool:
        run = request.begun()
        return run is not None and (len(run.manifest.stages) >= stage or run.is_complete)

    return is_done


def _grow(request: RunRequest) -> Callable[[], None]:
    def work() -> None:
        with engine_at(request.dask, device=request.device) as engine:
            grow(request.open(), device=torch.device(request.device), engine=engine)

    return work


def _student_done(request: RunRequest, stage: int) -> Callable[[], bool]:
    def is_done() -> bool:
        run = request.begun()
        if run is None or stage > len(run.manifest.stages):
            return run is not None and run.is_complete  # an adaptive schedule has ended before this stage
        student = run.student(stage)
        if not is_trained_and_validated(student, request.fold):
            return _is_no_longer_needed(run, stage)
        return not _wants_npz(request, run.manifest, stage) or has_probabilities(student, request.fold, run.setup.file_ending)

    return is_done


def _is_no_longer_needed(run: Run, stage: int) -> bool:
    """Whether the student of an earlier stage was removed after the last one was published.

    One whose stage was written again since then is wanted: it is removed so that another takes its place.
    """
    student, published = run.student(stage), published_model(run).checkpoint(run.fold)
    if run.manifest.stages[stage - 1].is_last or checkpoint_to_open(student, run.fold) is not None or not is_published(run):
        return False
    sidecar = preprocessed_root() / student.dataset / STAGE_SIDECAR
    return not sidecar.is_file() or sidecar.stat().st_mtime_ns <= published.stat().st_mtime_ns


def _student_progress(request: RunRequest, stage: int) -> Callable[[], str | None]:
    def progress() -> str | None:
        run = request.begun()
        if run is None or stage > len(run.manifest.stages):
            return None
        return training_progress(run.student(stage), request.fold, student_epochs(run, stage))

    return progress


def _wants_npz(request: RunRequest, manifest: Manifest, stage: int) -> bool:
    """Whether the student of a stage that is written is to save probabilities: the last one, which is published."""
    return request.npz and manifest.stages[stage - 1].is_last


def _train_student(request: RunRequest, stage: int, logs: Path) -> Callable[[], None]:
    def work() -> None:
        run = request.open()
        if len(run.manifest.stages) < stage:
            raise SetupError(f"stage {stage} is not written yet; run nnssl_pseudolabel first.")
        epochs, student = student_epochs(run, stage), run.student(stage)
        if not (preprocessed_root() / student.dataset / f"{run.setup.plans_name}.json").is_file():
            raise StateError(f"{preprocessed_root() / student.dataset} has no plans any more; {WRITE_AGAIN}")
        require_training_room(student, request.fold, student_bytes(run.setup, run.method, student.trainer, request.fold))
        log, npz = logs / f"student_{stage}.txt", _wants_npz(request, run.manifest, stage)
        train(student, request.fold, device=request.device, log=log, epochs=epochs, npz=npz)

    return work


def _published(request: RunRequest) -> Callable[[], bool]:
    def is_done() -> bool:
        run = request.begun()
        return run is not None and is_published(run)

    return is_done


def _publish(request: RunRequest) -> None:
    publish(request.open())
