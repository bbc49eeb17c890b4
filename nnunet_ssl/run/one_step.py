"""A single step of a run, for schedulers that submit one after another."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from nnunet_ssl.data.pool_index import load_pool
from nnunet_ssl.errors import ConfigError, NotYetError, SetupError
from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.run.run_request import Step

logger = logging.getLogger(__name__)

TEACHER = "teacher"
"""Name of the teacher's training; where there are several, the fold follows."""


def find_step(steps: Sequence[Step], key: str) -> Step:
    """The step of that name.

    Raises:
        ConfigError: if the run has no such step.
    """
    if (found := next((step for step in steps if step.key == key), None)) is None:
        raise ConfigError(f"--only {key}: this run has no such step; it has: {', '.join(step.key for step in steps)}.")
    return found


def execute_only(steps: Sequence[Step], step: Step, setup: NnunetSetup, prepare: Callable[[], object] = lambda: None) -> None:
    """Do one step, unless it is done.

    Args:
        steps: all steps of the run, in order.
        step: one of them.
        setup: whose pool must be there, where preparing it is no step of the run.
        prepare: called before work begins, and not where none is to be done.

    Raises:
        NotYetError: if a step that must come first is not done.
    """
    if step.is_done():
        logger.info("%s (%s): done before", step.key, step.name)
        return
    if step.key != "pool" and all(other.key != "pool" for other in steps):
        try:
            load_pool(setup)
        except SetupError as error:
            raise NotYetError(f"--only {step.key}: {error}") from error
    if (before := _first_to_do(steps, step)) is not None:
        raise NotYetError(f"--only {step.key}: {before.key} must come first ({before.name}), and is not done.")
    logger.info("%s: %s", step.key, step.name)
    prepare()
    step.work()


def next_step(steps: Sequence[Step]) -> Step | None:
    """The first step that is not done; None where all are."""
    return next((step for step in steps if not step.is_done()), None)


def _first_to_do(steps: Sequence[Step], step: Step) -> Step | None:
    """The first step that is not done of those that must come before another; the teachers' trainings need not wait for each other."""
    before = steps[: steps.index(step)]
    return next((other for other in before if not (_is_teacher(other) and _is_teacher(step)) and not other.is_done()), None)


def _is_teacher(step: Step) -> bool:
    return step.key.partition("-")[0] == TEACHER
