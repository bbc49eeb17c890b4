"""Which run is meant, and what is asked of it; what is not asked for, the run that has begun decides, or a default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.data.manifest import Manifest
from nnunet_ssl.errors import ConfigError, SetupError
from nnunet_ssl.locations import PREDICTIONS, ModelLocation
from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.pseudolabel.student_start import default_student


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run, there or not: labelled dataset, fold and teacher say which, the rest what is asked of it."""

    setup: NnunetSetup
    fold: int | str
    """0, 1, ... (report mode) or `all` (final mode)."""
    teacher_trainer: str
    """Class name of the teacher's trainer. With predictions, of the model whose weights stage 1 may start from; `predictions` finds the
    run that has begun with some."""
    predictions: tuple[Path, ...] = ()
    """Folders of predictions that are the teacher in place of a model, one per sample."""
    teacher_folds: tuple[int | str, ...] | None = None
    """Folds of the teacher whose evidence is averaged; only `-f all` may name others than its own fold."""
    student_trainer: str | None = None
    """Class name of the student's trainer; by default the one with the teacher's network."""
    method: MethodConfig | None = None
    """Settings; by default the plans'."""
    first_id: int | None = None
    """First id of the block of stage datasets, for stages that are not written; by default the first free block from 601."""
    groups: str | None = None
    """As `--groups` takes them; by default those kept beside the pool."""
    leave_group_out: bool = False
    """Whether the groups that the fold validates on stay out of the pool; a run that began so stays so."""

    @property
    def teacher(self) -> ModelLocation:
        """Where the teacher stands; predictions have a place of their own, in which only the workspace lies."""
        return self.setup.model(PREDICTIONS if self.predictions else self.teacher_trainer)

    @property
    def is_from_predictions(self) -> bool:
        """Whether the teacher is predictions, given now or when the run began."""
        return self.teacher.trainer == PREDICTIONS

    @property
    def workspace(self) -> Path:
        return self.teacher.workspace(self.fold)

    def method_of(self, manifest: Manifest | None) -> MethodConfig:
        """The settings; `manifest` is of the run, or None where it has not begun, here as below."""
        return self.method or (manifest.method if manifest else self.setup.method)

    def student_of(self, manifest: Manifest | None) -> str:
        """The student's trainer."""
        return self.student_trainer or (manifest.student_trainer if manifest else default_student(self.teacher_trainer))

    def folds_of(self, manifest: Manifest | None) -> list[int | str]:
        """Folds of the teacher; where predictions are the teacher, the run's own.

        Raises:
            ConfigError: if a fold's run is to use another fold's teacher, or folds of predictions are named.
            SetupError: if a fold is not in the splits, for which nnU-Net would train a random split of its own, or there are too few cases
                for nnU-Net's own splits.
        """
        if self.is_from_predictions:
            if self.teacher_folds:
                raise ConfigError("--teacher-folds names folds of a model; predictions have none: leave it out.")
            return [self.fold]
        folds = list(self.teacher_folds or (manifest.teacher_folds if manifest else _default_folds(self.setup, self.teacher, self.fold)))
        if self.fold != "all" and folds != [self.fold]:
            raise ConfigError(
                f"fold {self.fold} may only use the teacher of fold {self.fold}: another fold's teacher has seen its validation cases."
            )
        for each in folds:
            self.setup.fold_cases(each)
        return folds


def settings_in_force(setup: NnunetSetup, teacher_trainer: str, fold: int | str, predictions: Sequence[Path] = ()) -> MethodConfig:
    """The settings of the run that has begun, or the plans' where none has."""
    spec = RunSpec(setup=setup, fold=fold, teacher_trainer=teacher_trainer, predictions=tuple(predictions))
    return spec.method_of(Manifest.load(spec.workspace))


def _default_folds(setup: NnunetSetup, teacher: ModelLocation, fold: int | str) -> list[int | str]:
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
