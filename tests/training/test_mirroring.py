"""Where the teacher was trained without mirroring, or along some axes alone, so are its students: labels may tell left from right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import (
    nnUNetTrainer_onlyMirror01,
    nnUNetTrainerNoMirroring,
)
from short_training import run

from nnunet_ssl.nnunet_api.checkpoints import load_checkpoint, mirroring_axes
from nnunet_ssl.training.peers.mean_teacher import MeanTeacherTrainer
from nnunet_ssl.training.student import SemiSupervisedStudent, SemiSupervisedStudentTrainer

Settings = Callable[..., dict[str, Any]]


class OverNoMirroring(SemiSupervisedStudent, nnUNetTrainerNoMirroring):
    """A student whose own trainer does not mirror, whatever the teacher did."""


class OverMirror01(SemiSupervisedStudent, nnUNetTrainer_onlyMirror01):
    """A student whose own trainer mirrors along two axes."""


def mirrors(transform: Any) -> Iterator[MirrorTransform]:
    """Every mirroring in a pipeline, however deep."""
    if isinstance(transform, MirrorTransform):
        yield transform
    inner = getattr(transform, "transforms", None) or [t for t in [getattr(transform, "transform", None)] if t is not None]
    for part in inner:
        yield from mirrors(part)


def axes_in_use(trainer: Any) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    """Axes of the training's pipeline, and of prediction."""
    trainer.initialize()
    training, _ = trainer.get_dataloaders()
    found = [tuple(mirror.allowed_axes) for mirror in mirrors(training.data_loader.transforms)]
    assert len(found) < 2
    return (found[0] if found else None), trainer.inference_allowed_mirroring_axes


@pytest.mark.parametrize(
    ("kind", "teacher", "expected"),
    [
        (SemiSupervisedStudentTrainer, None, (0, 1, 2)),
        (SemiSupervisedStudentTrainer, [0, 1, 2], (0, 1, 2)),
        (SemiSupervisedStudentTrainer, [0, 1], (0, 1)),
        (SemiSupervisedStudentTrainer, [], None),
        (MeanTeacherTrainer, [], None),
        (OverNoMirroring, [0, 1, 2], None),
        (OverMirror01, [1, 2], (1,)),
    ],
)
def test_a_student_mirrors_as_its_teacher_did(tiny: Any, short: Settings, kind: Any, teacher: Any, expected: Any) -> None:
    tiny.write_sidecar(mirroring_axes=teacher)
    assert axes_in_use(tiny.trainer(kind, settings=short())) == (expected, expected)


def test_stages_of_the_first_version_restrict_nothing(tiny: Any, short: Settings) -> None:
    assert "mirroring_axes" not in tiny.sidecar
    assert axes_in_use(tiny.trainer(SemiSupervisedStudentTrainer, settings=short())) == ((0, 1, 2), (0, 1, 2))


def test_prediction_with_the_student_does_not_mirror_either(tiny: Any, short: Settings) -> None:
    tiny.write_sidecar(mirroring_axes=[], num_epochs=1)
    trainer = run(tiny.trainer(SemiSupervisedStudentTrainer, settings=short(iterations=1)))
    path = Path(trainer.output_folder) / "checkpoint_final.pth"
    assert load_checkpoint(path)["inference_allowed_mirroring_axes"] is None
    assert mirroring_axes(load_checkpoint(path), path) == ()
