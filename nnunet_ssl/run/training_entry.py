"""How a training's process begins: alone in its folder, and not to outlive the process that started it."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

from nnunet_ssl.data.files import OWN_PREFIX

FOLDER_VARIABLE = "NNSSL_TRAINING_FOLDER"
"""Names the model's fold folder to the process of its training."""
LOCK = f"{OWN_PREFIX}training_lock"
"""In the fold folder; the process that trains there has it locked."""
EXIT_NOT_ALONE = 3
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""Error numbers of a file system that cannot lock, or of a network drive without its service for it."""


def begin() -> None:
    """Lock the folder of the training for as long as this process lives, and tie its life to the starting process's.

    Where another process trains there, a line says so and this process ends.
    """
    folder = Path(os.environ.pop(FOLDER_VARIABLE))
    if lock_folder(folder) is None:
        print(f"another process trains in {folder} already; wait for it, or end it first.", flush=True)
        sys.exit(EXIT_NOT_ALONE)
    threading.Thread(target=_end_with_starter, daemon=True).start()


def lock_folder(folder: Path) -> int | None:
    """Lock a fold folder for this process, without waiting; None where another process has it.

    Worker processes do not inherit the lock, so that it ends with this process, however that ends. On a file system that cannot lock, a
    line of the output says so, and nobody sees to it that no second process trains there.

    Returns:
        The descriptor whose closing gives the lock back.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # POSIX allows either
        os.close(descriptor)
        return None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        print(f"warning: {folder} cannot be locked ({error.strerror}); see to it that no other process trains there.", flush=True)
    return descriptor


def _end_with_starter() -> None:
    """Wait for the end of standard input, which the starting process holds open while it lives; then end, workers and theirs included."""
    while os.read(0, 1):
        pass
    with suppress(ProcessLookupError):
        os.killpg(os.getpid(), signal.SIGKILL)  # the group that `nnssl_run` lets this process lead, and no other
    os.kill(os.getpid(), signal.SIGKILL)
