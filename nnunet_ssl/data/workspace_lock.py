"""One process at a time changes a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from nnunet_ssl.data.files import OWN_PREFIX
from nnunet_ssl.disk import naming
from nnunet_ssl.errors import StateError

LOCK_FILE = f"{OWN_PREFIX}run.lock"
"""In the workspace. It is never replaced, as the manifest is, so that whoever locks it locks the same file.

On a file system that cannot lock, it is there only while somebody holds it, and says by being there that somebody does.
"""


def make_lock(workspace: Path) -> None:
    """Make the file that is locked, where a run begins, so that a command that is refused later leaves the workspace as it was.

    Raises:
        StateError: as `changing_run`.
        OSError: as `changing_run`.
    """
    workspace.mkdir(parents=True, exist_ok=True)
    with changing_run(workspace):  # a file that is made otherwise would be a held lock where the file system cannot lock
        pass


@contextmanager
def changing_run(workspace: Path) -> Iterator[None]:
    """Hold the right to write stages, accept labels and publish; nobody waits for it.

    The operating system frees it when its holder dies. Who holds it has to see whether the manifest on disk still says what was known of
    the run.

    Raises:
        StateError: if another process has it.
        OSError: with the name of the lock, if the file system refuses it.
    """
    path = workspace / LOCK_FILE
    lock = FileLock(path, timeout=0)
    try:
        with naming(path):
            lock.acquire()
    except Timeout as error:
        raise StateError(f"another process is writing a stage of {workspace}, or changes the run; wait for it, or end it first.") from error
    try:
        yield
    finally:
        lock.release()
