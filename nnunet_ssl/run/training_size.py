"""What a training leaves on disk."""

from __future__ import annotations

from pathlib import Path

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.disk import require_free
from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.nnunet_api.external_trainers import is_our_teacher, settings_of_student
from nnunet_ssl.nnunet_api.network_size import network_size
from nnunet_ssl.nnunet_api.setup import NnunetSetup

_CHECKPOINTS = 2
"""`checkpoint_final.pth` and `checkpoint_best.pth`; while it runs `checkpoint_latest.pth` stands in place of the former."""
_BYTES_PER_TENSOR = 350
"""Names, sizes and padding that PyTorch stores with each tensor."""
_LOGS_BYTES = 500_000
"""`progress.png`, which hardly depends on the number of epochs, and text."""


def teacher_bytes(setup: NnunetSetup, method: MethodConfig, trainer: str, fold: int | str) -> float:
    """What the training of a fold's teacher leaves; a trainer that is not ours is taken to use nnU-Net's SGD."""
    optimizer = method.teacher.optimizer if is_our_teacher(trainer) else "nnunet"
    return _training_bytes(setup, trainer, optimizer, fold, has_average=False)


def student_bytes(setup: NnunetSetup, method: MethodConfig, trainer: str, fold: int | str) -> float:
    """What the training of one stage's student leaves."""
    student = settings_of_student(method, trainer).student
    return _training_bytes(setup, trainer, student.optimizer, fold, has_average=student.ema)


def require_training_room(model: ModelLocation, fold: int | str, num_bytes: float) -> None:
    """See that there is room for a training; checkpoints of an earlier start make way for the new ones.

    Raises:
        StateError: if there is not; the training is not started.
    """
    left = sum(f.stat().st_size for f in model.fold_folder(fold).glob("checkpoint_*.pth"))
    require_free(model.fold_folder(fold), max(0.0, num_bytes - left), f"the training of {model.dataset} with {model.trainer}")


def _training_bytes(setup: NnunetSetup, trainer: str, optimizer: str, fold: int | str, *, has_average: bool) -> float:
    """Checkpoints with weights and what the optimiser keeps, figures and logs, and the predictions of the validation cases."""
    size, is_adamw = network_size(setup, trainer), optimizer == "adamw"
    copies = 1 + (2 if is_adamw else 1) + has_average
    # AdamW counts the steps of every tensor in one more
    checkpoint = 4 * size.weights * copies + _BYTES_PER_TENSOR * size.tensors * (copies + is_adamw)
    labels = [Path(case.label) for case in setup.labelled_cases.values()]
    sizes = [label.stat().st_size for label in labels if label.is_file()]
    validation = len(setup.fold_cases(fold)[1]) * sum(sizes) / max(1, len(sizes))
    return _CHECKPOINTS * checkpoint + _LOGS_BYTES + validation
