"""One process at a time changes a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from nnunet_ssl.data.files import OWN_PREFIX
from nnunet_ssl.errors import StateError

LOCK_FILE = f"{OWN_PREFIX}run.lock"
"""In the workspace. It is never replaced, as the manifest is, so that whoever locks it locks the same file."""


def make_lock(workspace: Path) -> None:
    """Make the file that is locked, where a run begins."""
    workspace.mkdir(parents=True, exist_ok=True)
    (workspace / LOCK_FILE).touch()


@contextmanager
def changing_run(workspace: Path) -> Iterator[None]:
    """Hold the right to write stages, accept labels and publish; nobody waits for it.

    The operating system frees it when its holder dies. Who holds it has to see whether the manifest on disk still says what was known of
    the run.

    Raises:
        StateError: if another process has it.
    """
    lock = FileLock(workspace / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise StateError(f"another process is writing a stage of {workspace}, or changes the run; wait for it, or end it first.") from error
    try:
        yield
    finally:
        lock.release()
