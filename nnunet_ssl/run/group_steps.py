"""The steps of a run with groups: they are kept beside the pool, and a group is left out, before a teacher is trained."""

from __future__ import annotations

import logging
import shlex

from nnunet_ssl.data.groups import asked_groups, describe_groups, groups_of_pool, keep_groups, kept_groups
from nnunet_ssl.data.manifest import Manifest
from nnunet_ssl.data.pool_index import PoolIndex, load_pool
from nnunet_ssl.errors import ConfigError, SetupError, StateError
from nnunet_ssl.pseudolabel.run_groups import left_out_groups, without_groups
from nnunet_ssl.pseudolabel.run_pool import known_pool
from nnunet_ssl.run.run_request import RunRequest, Step

logger = logging.getLogger(__name__)


def group_steps(request: RunRequest, prepare: str, pseudolabel: str) -> list[Step]:
    """Steps for what is asked for.

    Args:
        request: what `nnssl_run` was asked to do.
        prepare: the command that prepares the pool, without `-u`.
        pseudolabel: the command that writes a stage.
    """
    steps = []
    if request.groups is not None:
        steps.append(_keep_step(request, request.groups, f"{prepare} --groups {shlex.quote(request.groups)}"))
    if request.leave_group_out:
        steps.append(_leave_out_step(request, f"{pseudolabel} --leave-group-out"))
    return steps


def _keep_step(request: RunRequest, asked: str, command: str) -> Step:
    """Keep groups beside the pool, where a teacher's training finds them."""

    def known() -> PoolIndex:
        workspace = request.workspace
        return known_pool(request.setup, Manifest.load(workspace), workspace)

    def is_done() -> bool:
        try:
            pool = known()
        except SetupError:  # not prepared yet
            return False
        asked_for = asked_groups(asked, request.setup, pool)
        try:
            return groups_of_pool(pool) == asked_for
        except StateError:  # damaged, and replaced; of a newer version is said when its turn comes
            return False

    def work() -> None:
        request.begun()  # an error where other groups are fixed, before anything is written
        pool = known()
        keep_groups(pool, asked_groups(asked, request.setup, pool))
        if groups := groups_of_pool(pool):
            logger.info("groups of the pool: %s", describe_groups(groups, pool.case_ids))

    return Step("keep the groups", command, is_done, work, is_before_stages=True, key="groups")


def _leave_out_step(request: RunRequest, command: str) -> Step:
    """See that the fold can leave its groups out, before hours of training."""

    def is_done() -> bool:
        if request.begun() is not None:
            return True
        try:
            work()
        except (ConfigError, SetupError, StateError):  # said when its turn comes: groups may be kept only then
            return False
        return True

    def work() -> None:
        if request.is_from_predictions:
            raise ConfigError("--leave-group-out needs a model as the teacher: what made the predictions may have seen any group.")
        pool = load_pool(request.setup)
        groups = kept_groups(pool.folder)
        without_groups(pool, groups, left_out_groups(request.setup, request.fold, groups))

    return Step("see that a group can be left out", command, is_done, work, is_before_stages=True, key="leave-group-out")
