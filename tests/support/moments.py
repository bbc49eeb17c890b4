"""Moments at which a run may be killed: what it does to files, and what takes time, counted within each of its steps.

`watch` writes every moment of a process, and of those forked from it, to a journal; given a `Moment`, it kills the process group there.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CHANGES = {
    "os.rename": "rename",
    "os.link": "link",
    "os.symlink": "link",
    "os.mkdir": "mkdir",
    "os.remove": "remove",
    "os.rmdir": "remove",
    "shutil.rmtree": "remove",
    "shutil.copyfile": "copy",
}
"""Python's audit events of changes to the file system, which precede the change, and our names for them."""


@dataclass(frozen=True)
class Moment:
    """The n-th event of a kind within a step, and how to die there."""

    step: str
    """For instance `write 2`: what is done, and for which stage."""
    event: str
    number: int
    how: str = "before"
    """`before` the event; `empty`: after a file was opened and before anything is written; `half`: before a rename, the file cut short."""


class Watch:
    """Journal of one process and those forked from it."""

    def __init__(self, root: Path, journal: Path, deadly: Moment | None) -> None:
        self.root, self.deadly = f"{root}{os.sep}", deadly
        self._journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._steps: list[str] = []
        self._seen: Counter[tuple[str, str]] = Counter()
        self._is_busy = False

    def write(self, **entry: Any) -> None:
        os.write(self._journal, (json.dumps(entry) + "\n").encode())

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self._steps.append(name)
        try:
            yield
        finally:
            self._steps.pop()

    def happens(self, event: str, path: str = "") -> None:
        """Count an event, and die if it is the one."""
        if not self._steps or self._is_busy:
            return
        step = self._steps[-1]
        if event == "rename" and step.startswith("write ") and Path(path).name.startswith("Dataset"):
            step = step.replace("write", "show")
        self._seen[step, event] += 1
        number = self._seen[step, event]
        self.write(moment=[step, event, number], path=path.removeprefix(self.root))
        if self.deadly and (step, event, number) == (self.deadly.step, self.deadly.event, self.deadly.number):
            self._is_busy = True
            self._die(path)

    def _die(self, path: str) -> None:
        if self.deadly and self.deadly.how == "empty":
            Path(path).write_bytes(b"")
        elif self.deadly and self.deadly.how == "half" and os.path.isfile(path):
            os.truncate(path, os.path.getsize(path) // 2)
        self.write(killed=asdict(self.deadly) if self.deadly else None)
        os.killpg(0, signal.SIGKILL)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook of Python."""
        if event == "open":
            path, mode, flags = arguments
            is_written = set(mode) & set("wax+") if isinstance(mode, str) else flags & (os.O_WRONLY | os.O_RDWR)
            name = "append" if isinstance(mode, str) and "a" in mode else "open"
        elif name := CHANGES.get(event, ""):
            # a rename is told by what it makes visible, a link by where it is put
            path, is_written = arguments[1] if name in ("link", "copy") else arguments[0], True
            if name == "rename" and Path(os.fsdecode(arguments[1])).name.startswith("Dataset"):
                path = arguments[1]
        else:
            return
        if is_written and isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self.root):
            self.happens(name, os.fspath(path))

    # ---- functions

    def around(self, owner: Any, name: str, step: Callable[..., str] | str) -> None:
        """Make a function a step."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def within(*arguments: Any, **options: Any) -> Any:
            with self.step(step if isinstance(step, str) else step(*arguments)):
                return original(*arguments, **options)

        setattr(owner, name, within)

    def at(self, owner: Any, name: str, event: str) -> None:
        """Make the beginning of a function an event."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def counted(*arguments: Any, **options: Any) -> Any:
            self.happens(event)
            return original(*arguments, **options)

        setattr(owner, name, counted)

    def unit(self, owner: Any, name: str, unit: Callable[..., str]) -> None:
        """Journal that a piece of work begins with a function."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def journalled(*arguments: Any, **options: Any) -> Any:
            self.write(begin=unit(*arguments))
            return original(*arguments, **options)

        setattr(owner, name, journalled)


def watch(root: Path, journal: Path, deadly: Moment | None) -> None:
    """Watch this process and all that it forks, to their end."""
    watched = Watch(root, journal, deadly)
    _name_steps(watched)
    _name_events(watched)
    _name_units(watched)
    sys.addaudithook(watched.audit)


def _name_steps(watched: Watch) -> None:
    from nnunet_ssl.data import overlay
    from nnunet_ssl.data.manifest import Manifest
    from nnunet_ssl.pseudolabel import grow
    from nnunet_ssl.report import write_report
    from nnunet_ssl.run import pipeline
    from nnunet_ssl.training.phased_trainer import PhasedTrainer

    ranked: list[int | None] = []
    """Stages whose labels were chosen, which comes before they are ranked; labels do not tell: those of a stage before may be kept."""

    def stage_of(run: Any) -> int | None:
        ranked.append(run.next_stage)
        return ranked[-1]

    watched.around(overlay, "lay_preset", "plans")
    watched.around(pipeline, "prepare_pool", "pool")
    watched.around(pipeline, "train", lambda model, fold: f"train {model.trainer} {model.dataset}")
    watched.around(PhasedTrainer, "perform_actual_validation", lambda trainer, *_: f"validate {trainer.plans_manager.dataset_name}")
    watched.around(grow, "gather_teacher_evidence", lambda run, *_: f"evidence {run.next_stage}")
    watched.around(grow, "gather_held_out_evidence", lambda run, *_: f"held-out evidence {run.next_stage}")
    watched.around(grow, "gather_student_evidence", lambda run, *_: f"student evidence {run.next_stage}")
    watched.around(grow, "in_force", lambda run: f"study {run.next_stage}")
    watched.around(grow, "choose_source", lambda run, *_: f"agreement {stage_of(run)}")
    watched.around(grow, "score_pool", lambda *_: f"ranking {ranked[-1]}")
    watched.around(grow, "write_ranking", lambda path, *_: f"table {path.stem[-1]}")
    watched.around(grow, "write_dataset", lambda run, *_: f"write {run.next_stage}")
    watched.around(pipeline, "publish", "publish")
    watched.around(Manifest, "save", lambda manifest, _: f"manifest {len(manifest.stages)}{' published' if manifest.published else ''}")
    watched.around(write_report, "write_report", "report")


def _name_events(watched: Watch) -> None:
    from nnunet_ssl.data import pool_workers, stage_dataset
    from nnunet_ssl.data.evidence_store import EvidenceStore
    from nnunet_ssl.nnunet_api.evidence_predictor import EvidencePredictor
    from nnunet_ssl.report import write_report
    from nnunet_ssl.training.phased_trainer import PhasedTrainer
    from nnunet_ssl.training.student import SemiSupervisedStudent

    watched.at(pool_workers, "preprocess_case", "case")
    watched.at(EvidencePredictor, "sweep", "sweep")
    watched.at(EvidenceStore, "write", "store")
    watched.at(EvidenceStore, "read", "read")
    for name in ("write_label", "write_map", "write_bytes"):
        watched.at(stage_dataset, name, name)
    for name in ("on_epoch_start", "on_train_epoch_end", "on_epoch_end", "on_train_end"):
        watched.at(PhasedTrainer, name, "epoch")
    for trainer in (PhasedTrainer, SemiSupervisedStudent):
        watched.at(trainer, "train_step", "step")
    watched.at(write_report, "page", "page")


def _name_units(watched: Watch) -> None:
    """Work that must not begin again once it stands on disk; `kill_check.standing` names it alike."""
    from nnunet_ssl.data import pool_workers
    from nnunet_ssl.data.evidence_store import EvidenceStore
    from nnunet_ssl.pseudolabel import grow
    from nnunet_ssl.run import pipeline
    from nnunet_ssl.training.phased_trainer import PhasedTrainer

    def dataset(trainer: Any) -> str:
        return str(trainer.plans_manager.dataset_name)

    watched.unit(pool_workers, "preprocess_case", lambda case, *_: f"preprocess {case}")
    watched.unit(EvidenceStore, "write", lambda store, case, *_: f"sweep {store.folder.name} {case}")
    watched.unit(PhasedTrainer, "on_train_epoch_start", lambda trainer: f"epoch {dataset(trainer)} {trainer.current_epoch}")
    watched.unit(PhasedTrainer, "perform_actual_validation", lambda trainer, *_: f"validate {dataset(trainer)}")
    watched.unit(grow, "write_dataset", lambda run, stage, *_: f"write {run.stage_name(stage)}")
    watched.unit(pipeline, "publish", lambda run: "publish")
