"""One command of the queue: in a session of its own, its output in a log, ended together with all that it has started."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
CANNOT_START = 127
"""Exit code of a command that is not there, as shells have it."""
_LOOK_SECONDS = 0.5


class Stop:
    """Whether a signal has asked this process to stop, and which."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def receive(self, number: int, frame: FrameType | None = None) -> None:
        """A signal handler that only takes note: whoever waits looks here."""
        self.signal = number

    def sleep(self, seconds: float) -> None:
        """Sleep, but not on after a signal."""
        end = time.monotonic() + seconds
        while self.signal is None and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK_SECONDS))


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Take note of signals instead of dying by them; handlers are as before afterwards.

    A signal that is ignored on entry stays ignored, as `nohup` has it.
    """
    stop = Stop()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    taken = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]
    try:
        for number in taken:
            signal.signal(number, stop.receive)
        yield stop
    finally:
        for number in taken:
            signal.signal(number, before[number])


def run_command(
    command: Sequence[str], *, log: Path, environment: Mapping[str, str], keep_open: int, stop: Stop, grace_seconds: float
) -> int:
    """Run a command to its end; returns its exit code, negative for a signal.

    Args:
        command: the whole line.
        log: file that the output is appended to.
        environment: added to this process's own.
        keep_open: file descriptor that the command inherits and so keeps open even if this process is killed.
        stop: when it has a signal, the command and all that it has started get SIGTERM, whichever signal it was: the others are often
            ignored by what a shell or `nohup` has started.
        grace_seconds: how long they then have before they are killed.
    """
    with log.open("a") as file:
        file.write(f"$ {' '.join(command)}\n")
        file.flush()
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                pass_fds=(keep_open,),
                start_new_session=True,
            )
        except OSError as error:
            file.write(f"{error}\n")
            return CANNOT_START
    deadline: float | None = None
    while True:
        try:
            return process.wait(_LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            # not waited for, so its number cannot belong to another process yet
            if stop.signal is not None and deadline is None:
                os.killpg(process.pid, signal.SIGTERM)
                deadline = time.monotonic() + grace_seconds
            elif deadline is not None and time.monotonic() > deadline:
                os.killpg(process.pid, signal.SIGKILL)
