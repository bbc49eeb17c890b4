"""Preprocessing the cases of the pool in several processes, or by the workers of an engine."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnunet_ssl.data.files import remove_leftovers, temporary_folder
from nnunet_ssl.errors import NnsslError, StateError
from nnunet_ssl.machines.engine import Engine
from nnunet_ssl.nnunet_api.preprocessing import preprocess_case, use_one_thread

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Outcome:
    """What has become of a case, as its worker sends it: a worker has no console to say it on."""

    problem: str | None
    """Why it was not preprocessed; None where it was."""
    warnings: tuple[str, ...]


def preprocess_cases(
    jobs: Mapping[str, tuple[Any, ...]], folder: Path, num_processes: int, engine: Engine | None
) -> Generator[tuple[str, str | None], None, None]:
    """Yield (case, problem or None) as cases finish; what workers warn of is said here, when the bar has ended.

    Args:
        jobs: arguments of `preprocess_case` by case, but for the temporary folder.
        folder: the pool's preprocessed files.
        num_processes: worker processes.
        engine: whose workers take the place of those processes.

    Raises:
        StateError: if a worker process is ended from outside.
    """
    warnings: list[str] = []
    try:
        with closing(_outcomes(jobs, folder, num_processes, engine)) as outcomes:
            for case, outcome in outcomes:
                warnings += outcome.warnings
                yield case, outcome.problem
    finally:
        for warning in warnings:
            logger.warning(warning)


def _outcomes(
    jobs: Mapping[str, tuple[Any, ...]], folder: Path, num_processes: int, engine: Engine | None
) -> Generator[tuple[str, _Outcome], None, None]:
    if engine is None:
        with temporary_folder(folder.parent) as temporary:
            yield from _run([(*job, temporary) for job in jobs.values()], num_processes)
        return
    with closing(engine.run(_work_elsewhere, jobs)) as results:
        yield from tqdm(results, total=len(jobs), desc="preprocessing the pool", disable=not jobs)
    remove_leftovers(folder.parent)  # of workers that have died


def _work(job: tuple[Any, ...]) -> tuple[str, _Outcome]:
    warnings: list[str] = []
    try:
        preprocess_case(*job, warn=warnings.append)
    except NnsslError as error:
        return job[0], _Outcome(str(error), tuple(warnings))
    return job[0], _Outcome(None, tuple(warnings))


def _work_elsewhere(job: tuple[Any, ...]) -> _Outcome:
    """As `_work` on an engine's worker, with a temporary folder of its own: should the worker seem dead, another does the same case."""
    use_one_thread()
    with temporary_folder(job[-1].parent) as temporary:
        return _work((*job, temporary))[1]


def _run(jobs: Sequence[tuple[Any, ...]], num_processes: int) -> Iterator[tuple[str, _Outcome]]:
    """Yield cases with what has become of them as they finish; in this process when one is enough."""
    bar: Callable[..., Any] = tqdm
    if num_processes <= 1 or len(jobs) <= 1:
        yield from bar(map(_work, jobs), total=len(jobs), desc="preprocessing the pool", disable=not jobs)
        return
    context = multiprocessing.get_context("spawn")
    workers = ProcessPoolExecutor(min(num_processes, len(jobs)), mp_context=context, initializer=use_one_thread)
    try:
        yield from bar(workers.map(_work, jobs), total=len(jobs), desc="preprocessing the pool")
    except BrokenProcessPool as error:
        raise StateError(
            "a process that preprocesses the pool was ended from outside, probably for lack of memory; give the command again with a lower "
            "-np, what is done is kept."
        ) from error
    finally:
        workers.shutdown(cancel_futures=True)
