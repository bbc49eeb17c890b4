"""Open nnU-Net checkpoints without running code they might carry."""

from __future__ import annotations

import functools
import hashlib
import json
import operator
import os
import pickle
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_ssl.errors import SetupError, StateError

try:
    from numpy._core import multiarray
except ImportError:  # NumPy 1
    from numpy.core import multiarray  # type: ignore[no-redef]

CHECKPOINT_ENTRY = "nnssl"
"""Key of what a checkpoint of our trainers holds beside nnU-Net's entries; nnU-Net ignores it."""
POOL_IMAGES = "pool_images"
"""In that entry of a teacher: cases of the pool whose images its uncertainty head has learned from."""
UNCERTAINTY_TERM = "loss_uncertainty"
"""Under this name our trainers log the loss of the uncertainty head; NaN in every epoch in which it does not learn."""

_MIRRORING = "inference_allowed_mirroring_axes"
"""nnU-Net's entry; it predicts without mirroring where that is None or missing."""

# nnU-Net stores NumPy scalars (losses, timestamps) and the device beside the weights; nothing else is needed to read its checkpoints.
# The functions have one name in what NumPy 1 has pickled and another in what NumPy 2 has.
_ALLOWED: list[Any] = [
    np.dtype,
    np.ndarray,
    *(type(np.dtype(kind)) for kind in ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")),
    *(
        (function, f"{module}.{function.__name__}")
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for function in (multiarray.scalar, multiarray._reconstruct)
    ),
]
_FORCE, _FORCE_NOT = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
"""PyTorch's own variables; the first wins over a call that asks for `weights_only=False`."""


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU with `weights_only=True` and a fixed allow-list.

    Raises:
        SetupError: if the file does not exist.
        StateError: if it is damaged or holds anything but tensors, numbers, text and containers (it is not executed).
    """
    if not path.is_file():
        raise SetupError(f"{path} is missing; train the model first.")
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise StateError(f"{path} holds objects other than weights and numbers and was not opened ({_found(error)}).") from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:  # PyTorch's readers raise any of them on arbitrary bytes
        reason = (str(error) or type(error).__name__).splitlines()[0]  # an empty file raises an error without text
        raise StateError(f"{path} is damaged ({reason}); train again or restore it.") from error
    if not isinstance(checkpoint, dict) or "network_weights" not in checkpoint:
        raise StateError(f"{path} is not a checkpoint of nnU-Net (it has no 'network_weights').")
    return checkpoint


def _found(error: pickle.UnpicklingError) -> str:
    """What a checkpoint holds besides, by name; PyTorch says it in the middle of advice on how to open the file all the same."""
    text = str(error)
    if match := re.search(r"GLOBAL (\S+)", text):
        return match[1]
    match = re.search(r"WeightsUnpickler error: (.+)", text)
    return match[1].strip() if match else "an unknown instruction"


@contextmanager
def weights_only() -> Iterator[None]:
    """While it is open, nnU-Net's own functions open checkpoints as `load_checkpoint` does, whatever they ask PyTorch for."""
    before = {name: os.environ.pop(name, None) for name in (_FORCE, _FORCE_NOT)}
    os.environ[_FORCE] = "1"
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            yield
    finally:
        del os.environ[_FORCE]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def pool_images_seen(checkpoint: dict[str, Any]) -> list[str] | None:
    """Cases of the pool that a model has learned from; None where it is one of ours and its checkpoint does not say."""
    entry = checkpoint.get(CHECKPOINT_ENTRY, {})
    if POOL_IMAGES in entry:
        return sorted(entry[POOL_IMAGES])
    is_ours = bool(entry) or UNCERTAINTY_TERM in checkpoint.get("logging", {})
    return None if is_ours else []


def mirroring_axes(checkpoint: dict[str, Any], path: Path) -> tuple[int, ...] | None:
    """Spatial axes, counted from 0, along which a model was mirrored in training and may be in prediction.

    Args:
        checkpoint: content of a checkpoint.
        path: where it is from, for messages.

    Returns:
        The axes as they stand there; none where it was trained without mirroring; None where the checkpoint does not say.

    Raises:
        StateError: if the entry is anything but axes.
    """
    if _MIRRORING not in checkpoint:
        return None
    found = checkpoint[_MIRRORING]
    try:
        axes = tuple(operator.index(axis) for axis in (() if found is None else found))
    except TypeError:
        axes = (-1,)
    if any(axis not in range(3) for axis in axes):
        raise StateError(f"{path} has the mirroring axes {found!r}, which no image has; restore it, or train again.")
    return axes


def fingerprint(path: Path) -> str:
    """Twelve hexadecimal digits that change when a file's content does."""
    stat = path.stat()
    return _fingerprint(path, stat.st_size, stat.st_mtime_ns)


def fingerprint_of_samples(checkpoints: Sequence[Path], num_samples: int) -> str:
    """Twelve hexadecimal digits of a predictor: its checkpoints, in their order, and the number of samples it draws."""
    content = json.dumps([[fingerprint(path) for path in checkpoints], num_samples])
    return hashlib.sha256(content.encode()).hexdigest()[:12]


@functools.cache
def _fingerprint(path: Path, size: int, mtime_ns: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()[:12]
