"""Checkpoints are written whole: PyTorch's writer fails on a full disk, but says that a position in the file was unexpected."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunet_ssl.disk import require_room


@contextmanager
def written_whole(path: Path) -> Iterator[None]:
    """Say of a file system that is full that it is.

    Raises:
        OSError: with the file's name, where there is no room for it.
    """
    try:
        yield
    except RuntimeError:
        if path.exists():  # in part
            require_room(path)
        raise
