"""Jobs as Dask tasks: a worker that dies loses none."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import CancelledError
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

from nnunet_ssl.errors import ConfigError, NnsslError, StateError
from nnunet_ssl.machines.local_cluster import is_local, local_cluster, visible_gpus

if TYPE_CHECKING:
    from distributed import Client, Future

logger = logging.getLogger(__name__)

INSTALL = "pip install '.[dask]' in a checkout of nnunet-ssl"
WAIT_SECONDS = 120
"""For the scheduler, and for its first worker."""


class DaskEngine:
    """An engine whose workers are those of a Dask scheduler, or processes of this machine.

    Only as many jobs as keep the workers busy are handed over at a time. A job whose worker has died is done again by another one.
    """

    def __init__(self, address: str) -> None:
        """Take the address; nothing starts before the first job.

        Args:
            address: of a scheduler, `local` (one worker for each GPU), or `local:N`.
        """
        try:
            import distributed  # noqa: F401
        except ImportError as error:
            raise ConfigError(f"--dask needs Dask, which is not installed; run: {INSTALL}") from error
        self.address = address
        self._workers = _local_workers(address)
        self._stack = ExitStack()
        self._client: Client | None = None

    def __enter__(self) -> DaskEngine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._client = None
        self._stack.close()

    def run(self, work: Callable[[Any], Any], jobs: Mapping[str, Any]) -> Generator[tuple[str, Any], None, None]:
        """Yield the name of each job and what the work gives for it, in any order; see `Engine`."""
        from distributed import as_completed

        if not jobs:
            return
        client, waiting, at_work = self._connected(), list(jobs)[::-1], dict[Any, str]()
        done = as_completed()
        try:
            while waiting or at_work:
                while waiting and len(at_work) < self._capacity():
                    name = waiting.pop()
                    future = client.submit(_guarded, work, jobs[name], pure=False)
                    at_work[future] = name
                    done.add(future)
                future = next(done)
                name = at_work.pop(future)
                yield name, self._result(future, name)
        finally:
            client.cancel(list(at_work))

    def _capacity(self) -> int:
        """Jobs that keep the workers of this moment busy."""
        try:
            return 2 * max(1, sum(int(threads) for threads in self._connected().nthreads().values()))
        except OSError as error:
            raise self._gone(error) from error

    def _result(self, future: Future[Any], name: str) -> Any:
        """What the work gave, or the expected error that it raised."""
        from distributed import KilledWorker

        try:
            result, problem = future.result()
        except KilledWorker as killed:
            raise StateError(
                f"case '{name}': every Dask worker that took it has died, the last on {killed.last_worker.host}, often for lack "
                "of memory; cases that are done are kept."
            ) from killed
        except CancelledError as error:
            raise self._gone(error) from error
        if problem is not None:
            raise problem
        return result

    def _gone(self, error: BaseException) -> StateError:
        return StateError(f"the Dask scheduler at {self.address} is gone ({error}); cases that are done are kept.")

    def _connected(self) -> Client:
        """The client, connected at the first call."""
        if self._client is not None:
            return self._client
        from distributed import Client

        try:
            if self._workers is None:
                self._client = self._stack.enter_context(Client(self.address, timeout=WAIT_SECONDS))
            else:
                cluster = self._stack.enter_context(local_cluster(self._workers))
                self._client = self._stack.enter_context(Client(cluster))
        except (OSError, ValueError) as error:
            raise StateError(f"--dask {self.address}: no Dask scheduler answers there ({error}).") from error
        try:
            self._client.wait_for_workers(1, timeout=WAIT_SECONDS)
        except TimeoutError as error:
            raise StateError(
                f"the Dask scheduler at {self.address} has no workers; start some: dask worker {self.address} --nthreads 1 --memory-limit 0"
            ) from error
        return self._client


def _guarded(work: Callable[[Any], Any], job: Any) -> tuple[Any, NnsslError | None]:
    """What the work gives, or an expected error, which is none of Dask's to report."""
    try:
        return work(job), None
    except NnsslError as error:
        return None, error


def _local_workers(address: str) -> list[str | None] | None:
    """The GPU of each worker to be started here (None: no GPU); None where the workers are elsewhere."""
    if not is_local(address):
        return None
    gpus, asked = visible_gpus(), address.partition(":")[2]
    if not asked and not gpus:
        raise ConfigError(f"--dask {address}: there is no GPU, so say how many workers: --dask local:4")
    count = int(asked) if asked else len(gpus)
    if count < 1:
        raise ConfigError(f"--dask {address}: there is at least one worker.")
    return [gpus[number % len(gpus)] if gpus else None for number in range(count)]
