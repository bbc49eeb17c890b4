"""One run: a set-up, its pool, its fold and its manifest, with where everything of it lies."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.data.evidence_store import EvidenceStore, held_out_stores, student_store, teacher_stores
from nnunet_ssl.data.manifest import Manifest
from nnunet_ssl.data.pool_index import PoolIndex
from nnunet_ssl.data.workspace_lock import changing_run
from nnunet_ssl.errors import StateError
from nnunet_ssl.locations import ModelLocation, stage_dataset_name
from nnunet_ssl.nnunet_api.setup import NnunetSetup


@dataclass(frozen=True)
class Run:
    """One run: a set-up, its pool, its fold and its manifest, with where everything of it lies."""

    setup: NnunetSetup
    pool: PoolIndex
    manifest: Manifest
    teacher: ModelLocation
    method: MethodConfig
    """Settings in force; those of the manifest are of its newest stage."""

    @property
    def fold(self) -> int | str:
        return self.manifest.fold

    @property
    def workspace(self) -> Path:
        return self.teacher.workspace(self.fold)

    @property
    def start_model(self) -> ModelLocation:
        """Whose weights stage 1 may start from: the teacher's; where predictions are the teacher, those of a model that was named."""
        predictions = self.manifest.predictions
        return self.teacher if predictions is None else replace(self.teacher, trainer=predictions.start_trainer)

    @property
    def accepted(self) -> dict[str, str]:
        """Fingerprints of the accepted labels in force, by pool case, sorted."""
        return {case: label.fingerprint for case, label in sorted(self.manifest.accepted.items())}

    @property
    def pseudo_cases(self) -> list[str]:
        """Cases of the pool that need pseudo-labels from the next stage on."""
        return self.pool_without(self.manifest.accepted)

    def pool_without(self, accepted: Collection[str]) -> list[str]:
        """Cases of the pool that need pseudo-labels where others have manual ones."""
        return [case for case in self.manifest.pool if case not in accepted]

    def student(self, stage: int) -> ModelLocation:
        """The student of a stage, trained or not."""
        return self.manifest.student_on(self.stage_name(stage))

    def stage_name(self, stage: int) -> str:
        return stage_dataset_name(self.manifest.dataset_ids[stage - 1], self.setup.dataset, self.fold, stage)

    def is_trained(self, stage: int) -> bool:
        """Whether the student of a stage has finished training."""
        return self.student(stage).checkpoint(self.fold).is_file()

    @property
    def is_complete(self) -> bool:
        """See `Manifest.is_complete`."""
        return self.manifest.is_complete

    @property
    def next_stage(self) -> int | None:
        """The stage to write next; None when the curriculum is complete."""
        return None if self.is_complete else len(self.manifest.stages) + 1

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the right to change the run, of which this process must know the present state, since it writes the manifest anew.

        Raises:
            StateError: if another process has that right, or has written a stage, accepted labels, published or allotted other ids in the
                meantime.
        """
        with changing_run(self.workspace):
            on_disk, known = Manifest.load(self.workspace), self.manifest
            parts = ("stages", "accepted", "published", "dataset_ids")
            if on_disk is None or any(getattr(on_disk, part) != getattr(known, part) for part in parts):
                raise StateError(f"another process has changed the run in {self.workspace} in the meantime; give the command again.")
            yield

    def teacher_stores(self) -> dict[int | str, EvidenceStore]:
        """Evidence of the teacher on the pool, by fold."""
        return teacher_stores(self.workspace, self.manifest.teacher_fingerprint, self.manifest.teacher_folds, images=self.pool.folder)

    def held_out_stores(self) -> dict[int | str, EvidenceStore]:
        """Evidence of each fold's teacher on the labelled cases that it has not seen; none for a teacher that has seen all."""
        folds, images = list(self.held_out_cases), self.setup.data_folder
        return held_out_stores(self.workspace, self.manifest.teacher_fingerprint, folds, images=images)

    @cached_property
    def held_out_cases(self) -> dict[int | str, list[str]]:
        """By fold of the teacher, the labelled cases that it has not seen; a case that several have not seen belongs to the first.

        There are none where predictions are the teacher: what has made them may have seen any label.
        """
        cases: dict[int | str, list[str]] = {}
        if self.manifest.predictions is not None:
            return cases
        taken: set[str] = set()
        for fold in self.manifest.teacher_folds:
            held_out = [case for case in self.setup.fold_cases(fold)[1] if case not in taken]
            taken.update(held_out)
            if held_out:
                cases[fold] = held_out
        return cases

    def student_store(self, stage: int) -> EvidenceStore:
        """Evidence of the student of a stage; a `SetupError` if that student is not trained yet."""
        num_samples = self.method.evidence.num_samples
        return student_store(self.workspace, stage, self.student(stage), self.fold, num_samples, images=self.pool.folder)
