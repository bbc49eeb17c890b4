"""What `nnssl_run` is asked to do, and one step of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.data.manifest import Manifest
from nnunet_ssl.locations import MANIFEST_FILE, ModelLocation
from nnunet_ssl.pseudolabel.run import Run
from nnunet_ssl.pseudolabel.run_spec import RunSpec
from nnunet_ssl.pseudolabel.start_run import open_run


@dataclass(frozen=True, kw_only=True)
class RunRequest(RunSpec):
    """What `nnssl_run` was asked to do: which run, where and how its work is done."""

    method: MethodConfig = field()  # the base's default must not be inherited
    unlabelled: tuple[Path, ...]
    """Folders of `-u`; empty where the pool is prepared already."""
    device: str
    skip_bad: bool
    num_processes: int
    accept: Path | None = None
    """Folder of manual labels to accept."""
    accept_unchanged: bool = False
    """Whether pseudo-labels of the run may be among them."""
    dask: str | None = None
    """Where workers are that preprocess the pool and gather evidence; they start and end with each of these steps."""
    npz: bool = False
    """Whether the last student's validation saves probabilities, as `nnUNetv2_train --npz` does."""

    @property
    def student(self) -> str:
        """The student's trainer: as asked for, else that of the run that has begun, else the default one."""
        return self.student_of(Manifest.load(self.workspace))

    @property
    def published(self) -> ModelLocation:
        """Where the last student is published in the end."""
        return self.setup.model(self.student)

    @property
    def folds(self) -> tuple[int | str, ...]:
        """Folds of the teacher, see `folds_of`, known before that one is trained."""
        return tuple(self.folds_of(Manifest.load(self.workspace)))

    def open(self, *, only_looks: bool = False) -> Run:
        """The run on disk, begun if need be; needs a prepared pool and a trained teacher."""
        return open_run(self, only_looks=only_looks)

    def begun(self) -> Run | None:
        """The run, to be looked at; None where it has not begun.

        Raises:
            NnsslError: as `open_run`, where its teacher or pool is gone, for instance.
        """
        return self.open(only_looks=True) if (self.workspace / MANIFEST_FILE).is_file() else None


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
    progress: Callable[[], str | None] = lambda: None
    """How far a step is that is not done; None where it has not begun, or leaves nothing that tells."""
