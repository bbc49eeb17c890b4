"""One process at a time writes the stages of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from nnunet_ssl.data.files import OWN_PREFIX
from nnunet_ssl.errors import StateError

LOCK_FILE = f"{OWN_PREFIX}stage.lock"
"""In the workspace: whoever holds it may write stages. The operating system frees it when its holder dies."""


@contextmanager
def writing_stages(workspace: Path) -> Iterator[None]:
    """Hold the right to write the stages of a run; nobody waits for it.

    Raises:
        StateError: if another process has it.
    """
    try:
        with FileLock(workspace / LOCK_FILE, timeout=0):
            yield
    except Timeout as error:
        raise StateError(f"another process is writing a stage of {workspace}; wait for it, or end it first.") from error
