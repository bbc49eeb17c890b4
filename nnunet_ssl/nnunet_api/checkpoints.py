"""Open nnU-Net checkpoints without running code they might carry."""

from __future__ import annotations

import functools
import hashlib
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_ssl.errors import SetupError, StateError

try:
    from numpy._core import multiarray
except ImportError:  # NumPy 1
    from numpy.core import multiarray  # type: ignore[no-redef]

# nnU-Net stores NumPy scalars (losses, timestamps) and the device beside the weights; nothing else is needed to read its checkpoints
_ALLOWED: list[Any] = [
    np.dtype,
    np.ndarray,
    multiarray.scalar,
    multiarray._reconstruct,
    *(type(np.dtype(kind)) for kind in ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")),
]


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
        found = str(error).splitlines()[0]
        raise StateError(f"{path} holds objects other than weights and numbers and was not opened ({found}).") from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:  # PyTorch's readers raise any of them on arbitrary bytes
        reason = (str(error) or type(error).__name__).splitlines()[0]  # an empty file raises an error without text
        raise StateError(f"{path} is damaged ({reason}); train again or restore it.") from error
    if not isinstance(checkpoint, dict) or "network_weights" not in checkpoint:
        raise StateError(f"{path} is not a checkpoint of nnU-Net (it has no 'network_weights').")
    return checkpoint


def fingerprint(path: Path) -> str:
    """Twelve hexadecimal digits that change when a file's content does."""
    stat = path.stat()
    return _fingerprint(path, stat.st_size, stat.st_mtime_ns)


def fingerprint_of_samples(checkpoints: Sequence[Path], num_samples: int) -> str:
    """Twelve hexadecimal digits of a predictor: its checkpoints, in their order, and the number of samples it draws."""
    content = json.dumps([[fingerprint(path) for path in checkpoints], num_samples])
    return hashlib.sha256(content.encode()).hexdigest()[:12]


@functools.lru_cache(maxsize=64)
def _fingerprint(path: Path, size: int, mtime_ns: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()[:12]
