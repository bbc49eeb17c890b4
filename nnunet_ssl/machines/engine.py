"""What does the work on many cases: this process, or workers elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from nnunet_ssl.machines.own_process import OwnProcess


class Engine(Protocol):
    """Does the same work on many jobs, on workers that share this machine's folders."""

    def run(self, work: Callable[[Any], Any], jobs: Mapping[str, Any]) -> Generator[tuple[str, Any], None, None]:
        """Yield the name of each job and what the work gives for it, in any order.

        Args:
            work: a function of a module, which workers import. It may be done twice for a job, where a worker has died.
            jobs: what it takes, cheap to send, by the name of the case.

        Raises:
            NnsslError: an expected error of the work; the jobs that are left are given up.
            StateError: if a job has ended several workers, or the workers are gone.
        """
        ...


def engine_at(address: str | None, *, device: str = "cpu") -> AbstractContextManager[Engine | None]:
    """The engine of `--dask`, whose workers start with the first job and end with the block.

    Args:
        address: of a scheduler, `local` (one worker per GPU), or `local:N`. With None there is no engine and this process does the work,
            or a process of its own if the device is a GPU.
        device: `cuda` where the work uses a GPU that a training will need afterwards, see `OwnProcess`.

    Raises:
        ConfigError: if Dask is not installed, or the address is not one.
    """
    if address is None:
        return OwnProcess() if device == "cuda" else nullcontext()
    from nnunet_ssl.machines.dask_engine import DaskEngine

    return DaskEngine(address)
