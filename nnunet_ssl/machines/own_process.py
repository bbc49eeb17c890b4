"""One worker process of this machine, which gives back all that it holds of a GPU when it ends."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from nnunet_ssl.disk import meaning
from nnunet_ssl.errors import NnsslError, StateError, is_full_gpu


class OwnProcess:
    """An engine with a single worker, which starts with the first job and ends with the block.

    A process that has once used a GPU keeps memory there until it ends. A training that follows in another process may need all of it, and
    where a GPU is for one process at a time it could not even begin.
    """

    def __init__(self) -> None:
        """Nothing starts before the first job."""
        self._worker: tuple[Any, Connection] | None = None

    def __enter__(self) -> OwnProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._worker is not None:
            process, jobs = self._worker
            self._worker = None
            jobs.close()
            process.terminate()
            process.join()

    def run(self, work: Callable[[Any], Any], jobs: Mapping[str, Any]) -> Generator[tuple[str, Any], None, None]:
        """Yield the name of each job and what the work gives for it, in order; see `Engine`."""
        for name, job in jobs.items():
            process, connection = self._started()
            try:
                connection.send((work, job))
                result, problem = connection.recv()
            except (EOFError, ConnectionError) as error:
                process.join()
                raise StateError(
                    f"case '{name}': the process that works on it was ended from outside (exit code {process.exitcode}), often for lack of "
                    "memory; cases that are done are kept."
                ) from error
            if problem is not None:
                raise problem
            yield name, result

    def _started(self) -> tuple[Any, Connection]:
        if self._worker is None:
            context = multiprocessing.get_context("spawn")  # a CUDA device cannot be used in a forked process
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()  # so that the end of the worker ends the connection
            self._worker = process, ours
        return self._worker


def _serve(connection: Connection) -> None:
    """Do jobs until nobody asks for more; the end of the asking process closes the connection."""
    warnings.filterwarnings("ignore", message=r"`torch\.jit", category=FutureWarning)  # of libraries below nnU-Net, as in the commands
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the asking process, which ends this one
    with suppress(EOFError, ConnectionError):
        while True:
            work, job = connection.recv()
            try:
                answer: tuple[Any, BaseException | None] = (work(job), None)
            except NnsslError as error:
                answer = (None, error)
            except Exception as error:
                if not is_full_gpu(error) and not (isinstance(error, OSError) and meaning(error)):
                    traceback.print_exc()  # a defect, which is raised where somebody sees it
                answer = (None, error)
            connection.send(answer)
