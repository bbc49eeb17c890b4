"""Everything the report says about a run, as plain numbers and names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.data.changed_settings import changed_settings
from nnunet_ssl.data.held_out_use import held_out_decide
from nnunet_ssl.data.manifest import Manifest, StageRecord
from nnunet_ssl.data.published_student import is_student_published
from nnunet_ssl.data.ranking_file import RankingLine, ranking_file, read_ranking
from nnunet_ssl.errors import SetupError
from nnunet_ssl.locations import PREDICTIONS, ModelLocation
from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.nnunet_api.training_state import training_command
from nnunet_ssl.report.held_out import HeldOutFacts, read_held_out
from nnunet_ssl.report.learned_cases import learned_pool_cases
from nnunet_ssl.report.run_command import run_command
from nnunet_ssl.report.students_there import require_students
from nnunet_ssl.report.training_log import TrainingLog, read_training_log
from nnunet_ssl.report.validation import Validation, foreground_keys, read_validation
from nnunet_ssl.report.validation_use import ValidationUse, validation_use


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """The teacher (stage 0) or the student of one stage."""

    stage: int
    dataset: str
    """Dataset it trains on."""
    fraction: float | None
    """K_t; None for the teacher."""
    labelled_cases: int | None
    """Manual labels it trains on, accepted ones among them; None where nobody knows."""
    pool_cases: int
    """Pseudo-labelled cases it learns from."""
    log: TrainingLog | None
    """Of several teachers that of the first. None before its first checkpoint."""
    is_comparable: bool
    """Whether its pseudo Dice was measured on the same cases as the other models'; not so for a teacher of another fold."""
    validation: Validation | None
    """None before validation and in final mode."""
    tau: tuple[float, ...] | None
    """Thresholds in force when its stage was written: one, or one per class (region); None for the teacher."""
    share_confident: float | None
    """Share of predicted-foreground voxels of its pool cases with confidence of at least tau; None for the teacher."""
    changed: float | None
    """Largest share of changed foreground voxels over the classes, against the labels of the stage before."""
    kept_previous: bool
    """Whether the labels of the stage before were kept: the refined ones changed too much, or their student is worse by a test."""
    minutes: float | None
    """Epochs of the training so far and, of a student, the command that wrote its stage. Evidence that this command has found there (of an
    audit, of other parts, of one that was interrupted) took time that nobody has kept."""
    folds: tuple[int | str, ...]
    """Folds that it was trained on; several are as many teachers."""
    trained_folds: int
    """How many of these trainings have ended."""
    is_model: bool = True
    """Not so where predictions from elsewhere are the teacher."""

    @property
    def name(self) -> str:
        if self.stage > 0:
            return f"student {self.stage}"
        return "teacher" if len(self.folds) == 1 else f"{len(self.folds)} teachers"

    @property
    def log_name(self) -> str:
        """Whose epochs the log has."""
        return self.name if len(self.folds) == 1 else f"teacher, fold {self.folds[0]} of {len(self.folds)}"

    @property
    def state(self) -> str:
        """How far its training is."""
        if not self.is_model:
            return "predictions"
        if len(self.folds) > 1:
            return "trained" if self.trained_folds == len(self.folds) else f"{self.trained_folds} of {len(self.folds)} trained"
        if self.log is None:
            return "not trained"
        return "trained" if self.log.is_finished else f"in training, epoch {self.log.num_epochs}"


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """A run, finished or not."""

    dataset: str
    configuration: str
    plans: str
    fold: int | str
    teacher: ModelLocation
    teacher_folds: tuple[int | str, ...]
    control: str | None
    """Name of what is changed, where the run is the control of another one."""
    predictions: tuple[str, ...]
    """Folders of the predictions that are the teacher; empty where it is a model."""
    student_trainer: str | None
    """None where no stage is written: the first one decides."""
    pool_cases: int | None
    """None where the run has not begun."""
    labelled_cases: int
    """Labelled cases of the fold that train."""
    accepted_cases: int
    """Cases of the pool whose manual labels were accepted."""
    partial_cases: int
    """Those of them that are annotated in part."""
    validation_use: ValidationUse
    """Labelled cases of the fold that nothing trains on, and what else they served for."""
    class_names: tuple[str, ...]
    """Foreground classes (regions), in the order of the network's outputs."""
    method: MethodConfig
    """Settings as given."""
    decided: Mapping[str, Any]
    """Settings that are in force at the newest stage, whatever was given, by dotted path; none before the first stage."""
    changed_settings: tuple[str, ...]
    """Settings that not all stages were written with, by dotted path."""
    num_stages: int
    """Stages the curriculum has; where an adaptive schedule has ended, those that it had."""
    ranking_score: str
    """Name of the case score that ranks the pool at the newest stage; held-out cases may have chosen another than the settings name."""
    models: tuple[ModelFacts, ...]
    """The teacher, then one student for every stage that is written."""
    ranking: tuple[RankingLine, ...]
    """The pool as the newest stage ranks it."""
    is_published: bool
    """Whether the last student, as it is now, stands as a model of the labelled dataset."""
    held_out: HeldOutFacts | None
    """What held-out labelled cases decided at the newest stage; None where they decide nothing."""

    @property
    def is_final_mode(self) -> bool:
        """Whether every label trains, so that no figure on unseen cases exists."""
        return self.fold == "all"

    @property
    def is_random(self) -> bool:
        """Whether the newest stage has its cases in random order, so that no score ranks."""
        return self.decided.get("curriculum.order") == "random"

    @property
    def students(self) -> tuple[ModelFacts, ...]:
        return self.models[1:]

    @property
    def has_one_tau(self) -> bool:
        """Whether the thresholds of all stages are the same."""
        return len({student.tau for student in self.students}) <= 1

    @property
    def is_on_labels_alone(self) -> bool:
        """Whether there are students, and none of them learns from the pool."""
        return bool(self.students) and not any(student.pool_cases for student in self.students)


def collect(setup: NnunetSetup, fold: int | str, teacher_trainer: str) -> RunFacts:
    """Read what the files of a run say.

    Args:
        setup: the labelled dataset and its plans.
        fold: fold of the run.
        teacher_trainer: class name of the teacher's trainer.

    Raises:
        SetupError: if neither a run nor a trained teacher is there.
        StateError: if the manifest or a table is damaged, or the run was published and a student of it is gone.
    """
    teacher = setup.model(teacher_trainer)
    manifest = Manifest.load(teacher.workspace(fold))
    if manifest is not None:
        owner: dict[str, str | int] = {"configuration": setup.configuration, "plans": setup.plans_name, "fold": fold}
        manifest.check_owner(teacher.workspace(fold), dataset=setup.dataset, **owner)
        require_students(manifest)
    teacher_folds = tuple(manifest.teacher_folds) if manifest else (fold,)
    train, validation = setup.fold_cases(fold)
    if manifest is None and teacher_trainer == PREDICTIONS:
        raise SetupError(f"no run of fold {fold} has begun with predictions; begin one with nnssl_pseudolabel --from-predictions FOLDER.")
    models = [_teacher_facts(teacher, fold, teacher_folds, len(train), foreground_keys(setup))]
    if manifest is None and models[0].log is None:
        # trained by itself, a teacher of all labels would be taken in place of those of the folds
        begin = run_command(teacher, fold, has_begun=False) if fold == "all" else training_command(teacher, fold, anew=True)
        folder = teacher.fold_folder(fold)
        raise SetupError(f"there is nothing to report yet: {folder} holds no checkpoint that can be read; run: {begin}")
    records, accepted = (manifest.stages, manifest.accepted) if manifest else ([], {})
    if manifest is not None:
        models += [_student_facts(manifest, record, len(train), foreground_keys(setup)) for record in records]
    method = manifest.method if manifest else setup.method
    return RunFacts(
        dataset=setup.dataset,
        configuration=setup.configuration,
        plans=setup.plans_name,
        fold=fold,
        teacher=teacher,
        teacher_folds=teacher_folds,
        control=manifest.control if manifest else None,
        predictions=tuple(manifest.predictions.folders) if manifest and manifest.predictions else (),
        student_trainer=manifest.student_trainer if manifest else None,
        pool_cases=len(manifest.pool) if manifest else None,
        labelled_cases=len(train),
        accepted_cases=len(accepted),
        partial_cases=sum(label.is_partial for label in accepted.values()),
        validation_use=validation_use(manifest, method, fold, len(validation)),
        class_names=tuple(foreground_keys(setup)),
        method=method,
        decided=_decided(records[-1]) if records else {},
        changed_settings=tuple(changed_settings(manifest)) if manifest else (),
        num_stages=len(records) if manifest and manifest.is_complete else method.curriculum.num_stages,
        ranking_score=records[-1].case_score if records else method.evidence.case_score,
        models=tuple(models),
        ranking=read_ranking(ranking_file(teacher.workspace(fold), len(records))),
        is_published=manifest is not None and is_student_published(manifest, teacher.workspace(fold)),
        held_out=read_held_out(teacher.workspace(fold)) if manifest and records and _held_out_decide(setup, manifest) else None,
    )


def _held_out_decide(setup: NnunetSetup, manifest: Manifest) -> bool:
    """Whether the newest stage has used held-out cases; a study on disk may be of an earlier run in this workspace."""
    folds = manifest.teacher_folds if manifest.predictions is None else ()
    return held_out_decide(setup, manifest.method, manifest.fold, folds)


def _decided(record: StageRecord) -> dict[str, Any]:
    return {"evidence.case_score": record.case_score, "curriculum.order": record.order, "student.tau": record.tau}


def _teacher_facts(
    teacher: ModelLocation, fold: int | str, teacher_folds: tuple[int | str, ...], labelled_cases: int, keys: Mapping[str, str]
) -> ModelFacts:
    logs = [read_training_log(teacher, member) for member in teacher_folds]
    known = [log for log in logs if log is not None]
    same_fold = teacher_folds == (fold,)
    is_model = teacher.trainer != PREDICTIONS
    return ModelFacts(
        stage=0,
        dataset=teacher.dataset,
        fraction=None,
        labelled_cases=labelled_cases if is_model else None,
        pool_cases=0,
        log=logs[0] if same_fold else _without_figures_of_a_fold(logs[0]),
        is_comparable=same_fold,
        validation=read_validation(teacher, fold, keys) if same_fold else None,
        tau=None,
        share_confident=None,
        changed=None,
        kept_previous=False,
        minutes=sum(log.minutes for log in known) if known else None,
        folds=teacher_folds,
        trained_folds=sum(log.is_finished for log in known),
        is_model=is_model,
    )


def _without_figures_of_a_fold(log: TrainingLog | None) -> TrainingLog | None:
    """The log of one of several teachers without what was measured on cases that its fold has not seen, unlike the students."""
    if log is None:
        return None
    measured = ("val_losses", "mean_fg_dice")
    return replace(log, values={name: v for name, v in log.values.items() if name not in measured}, class_dice=())


def _student_facts(manifest: Manifest, record: StageRecord, labelled_cases: int, keys: Mapping[str, str]) -> ModelFacts:
    student, fold = manifest.student_on(record.dataset), manifest.fold
    log = read_training_log(student, fold)
    return ModelFacts(
        stage=record.stage,
        dataset=record.dataset,
        fraction=record.fraction,
        labelled_cases=labelled_cases + len(record.accepted),
        pool_cases=learned_pool_cases(manifest, record),
        log=log,
        is_comparable=True,
        validation=read_validation(student, fold, keys),
        tau=tuple(record.tau) if isinstance(record.tau, list) else (record.tau,),
        share_confident=record.share_confident,
        changed=record.largest_change,
        kept_previous=record.kept_previous,
        minutes=record.seconds / 60 + (log.minutes if log is not None else 0.0),
        folds=(fold,),
        trained_folds=int(log is not None and log.is_finished),
    )
