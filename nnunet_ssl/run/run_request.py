"""What `nnssl_run` is asked to do, and one step of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.data.manifest import Manifest
from nnunet_ssl.locations import PREDICTIONS, ModelLocation
from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.pseudolabel.run import Run
from nnunet_ssl.pseudolabel.start_run import check_teacher_folds, default_teacher_folds, open_run, teacher_location
from nnunet_ssl.pseudolabel.student_start import default_student


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What `nnssl_run` was asked to do."""

    setup: NnunetSetup
    fold: int | str
    unlabelled: tuple[Path, ...]
    """Folders of `-u`; empty where the pool is prepared already."""
    teacher_trainer: str
    """With `predictions`, of the model whose weights stage 1 may start from."""
    teacher_folds: tuple[int | str, ...] | None
    student_trainer: str | None
    method: MethodConfig
    device: str
    skip_bad: bool
    num_processes: int
    first_id: int | None
    predictions: tuple[Path, ...] = ()
    """Folders of predictions that are the teacher."""
    accept: Path | None = None
    """Folder of manual labels to accept."""
    groups: str | None = None
    """As `--groups` takes them; None takes those of the run, or those kept beside the pool."""
    leave_group_out: bool = False
    """Whether the groups that the fold validates on stay out of the pool."""
    dask: str | None = None
    """Where workers are that preprocess the pool and gather evidence; they start and end with each of these steps."""

    @property
    def teacher(self) -> ModelLocation:
        return teacher_location(self.setup, self.teacher_trainer, self.predictions)

    @property
    def student(self) -> str:
        """The student's trainer: as asked for, else that of the run that has begun, else the default one."""
        begun = Manifest.load(self.teacher.workspace(self.fold))
        return self.student_trainer or (begun.student_trainer if begun else default_student(self.teacher_trainer))

    @property
    def published(self) -> ModelLocation:
        """Where the last student is published in the end."""
        setup = self.setup
        return ModelLocation(dataset=setup.dataset, trainer=self.student, plans=setup.plans_name, configuration=setup.configuration)

    @property
    def is_from_predictions(self) -> bool:
        """Whether the teacher is predictions, given now or when the run began."""
        return self.teacher.trainer == PREDICTIONS

    @property
    def folds(self) -> tuple[int | str, ...]:
        """Folds of the teacher: as asked for, else those of the run that has begun, else the default ones.

        Raises:
            ConfigError: if a fold's run is to use another fold's teacher; said before that one is trained.
            SetupError: if a fold is not in the splits, or there are too few cases for nnU-Net's own.
        """
        if self.is_from_predictions:
            return (self.fold,)
        begun = Manifest.load(self.teacher.workspace(self.fold))
        known = begun.teacher_folds if begun else default_teacher_folds(self.setup, self.teacher, self.fold)
        folds = self.teacher_folds or tuple(known)
        check_teacher_folds(self.setup, self.fold, folds)
        return folds

    def open(self, *, only_looks: bool = False) -> Run:
        """The run on disk, begun if need be; needs a prepared pool and a trained teacher."""
        return open_run(
            self.setup,
            self.fold,
            teacher_trainer=self.teacher_trainer,
            predictions=self.predictions,
            teacher_folds=self.teacher_folds,
            student_trainer=self.student_trainer,
            method=self.method,
            first_id=self.first_id,
            groups=self.groups,
            leave_group_out=self.leave_group_out,
            only_looks=only_looks,
        )

    def begun(self) -> Run | None:
        """The run, to be looked at; None where it has not begun.

        Raises:
            NnsslError: as `open_run`, where its teacher or pool is gone, for instance.
        """
        return self.open(only_looks=True) if (self.teacher.workspace(self.fold) / "manifest.json").is_file() else None


@dataclass(frozen=True)
class Step:
    """One step: what it is called, and the work, which is skipped where the files say that it is done."""

    name: str
    command: str
    """The command that does this step alone."""
    is_done: Callable[[], bool]
    work: Callable[[], None]
    is_before_stages: bool = False
    """Whether it makes what every stage needs: the pool and the teacher."""
    key: str = ""
    """What `nnssl_run --only` calls it."""
    uses_device: bool = False
    """Whether a network may have to run."""
