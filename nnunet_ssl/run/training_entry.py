"""How a training's process begins: alone in its folder, and not to outlive the process that started it."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path

from nnunet_ssl.data.files import OWN_PREFIX

FOLDER_VARIABLE = "NNSSL_TRAINING_FOLDER"
"""Names the model's fold folder to the process of its training."""
LOCK = f"{OWN_PREFIX}training_lock"
"""In the fold folder; the process that trains there has it locked."""
EXIT_NOT_ALONE = 3


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

    Worker processes do not inherit the lock, so that it ends with this process, however that ends.

    Returns:
        The descriptor whose closing gives the lock back.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _end_with_starter() -> None:
    """Wait for the end of standard input, which the starting process holds open while it lives; then end, workers included."""
    while os.read(0, 1):
        pass
    for worker in multiprocessing.active_children():
        worker.kill()
    os.kill(os.getpid(), signal.SIGKILL)
