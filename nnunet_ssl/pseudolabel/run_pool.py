"""The cases of a run: those that it began with, whatever the pool has got or lost since."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from nnunet_ssl.data.manifest import Manifest
from nnunet_ssl.data.pool_index import PoolIndex, load_pool
from nnunet_ssl.errors import StateError
from nnunet_ssl.locations import MANIFEST_FILE, dataset_number, plans_flag, start_over
from nnunet_ssl.nnunet_api.setup import NnunetSetup

logger = logging.getLogger(__name__)


def known_pool(setup: NnunetSetup, manifest: Manifest | None, workspace: Path) -> PoolIndex:
    """The prepared pool as a run knows it: cases that came after it began stand among the skipped ones.

    Cases of groups that the run leaves out are still in it, for they have groups.

    Args:
        setup: the labelled dataset and its plans.
        manifest: of the run; None where it begins, with the whole pool.
        workspace: of the run.

    Raises:
        StateError: if the prepared pool lacks a case of the run.
    """
    pool = load_pool(setup)
    if manifest is None:
        return pool
    if missing := [case for case in manifest.pool if case not in pool.images]:
        prepare = f"nnssl_prepare -d {dataset_number(setup.dataset)} -c {setup.configuration}{plans_flag(setup.plans_name)}"
        raise StateError(
            f"the run in {workspace} has the pool case '{missing[0]}', which the prepared pool lacks ({len(missing)} of "
            f"{len(manifest.pool)}); prepare the pool again with every folder that images of your runs lie in ({prepare} -u FOLDER "
            f"FOLDER2), or, to start over without them, remove {workspace / MANIFEST_FILE}."
        )
    known = {*manifest.pool, *manifest.groups}
    later = [case for case in pool.images if case not in known]
    if later:
        _say_later(workspace, len(later))
    images = {case: files for case, files in pool.images.items() if case in known}
    return replace(pool, images=images, skipped={**pool.skipped, **dict.fromkeys(later, "it came after the run began")})


def own_cases(pool: PoolIndex, manifest: Manifest, groups: Mapping[str, str], workspace: Path) -> PoolIndex:
    """The cases of a run that has begun.

    Args:
        pool: as the run knows it.
        manifest: of the run.
        groups: as they are now; they may change until a stage is written.
        workspace: of the run.

    Raises:
        StateError: if a case of the run is of a group by now that the run leaves out.
    """
    if left_out := [case for case in manifest.pool if groups.get(case) in manifest.left_out_groups]:
        raise StateError(
            f"the run in {workspace} leaves out the group '{groups[left_out[0]]}', and its pool case '{left_out[0]}' is of that group by "
            f"now ({len(left_out)} such cases); give --groups as when it began, or {start_over(workspace)}."
        )
    return replace(pool, images={case: pool.images[case] for case in manifest.pool})


@functools.cache
def _say_later(workspace: Path, number: int) -> None:
    """Once for a run, which a command opens many times."""
    logger.info("%d pool cases came later and are no part of this run (%s)", number, workspace)
