"""Every kind of dataset, brought from raw images to a published student once for all tests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
from dataset_kinds import KINDS
from kind_commands import KindRun, begin, kind_environment


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], KindRun]:
    """Gives the finished run of a kind; not to be changed."""
    runs: dict[str, KindRun] = {}

    def get(name: str) -> KindRun:
        if name not in runs:
            run = begin(KINDS[name], tmp_path_factory.mktemp(name))
            with kind_environment(run.project):
                run.whole()
            runs[name] = run
        return runs[name]

    return get


@pytest.fixture
def opened(finished: Callable[[str], KindRun], quiet_machine: None) -> Iterator[Callable[[str], KindRun]]:
    """As `finished`, with nnU-Net's variables naming the run's folders until the test ends."""
    with contextlib.ExitStack() as stack:

        def get(name: str) -> KindRun:
            run = finished(name)
            stack.enter_context(kind_environment(run.project))
            return run

        yield get
