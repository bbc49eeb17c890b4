"""The groups of a run, and those that it leaves out because its fold validates on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nnunet_ssl.data.groups import asked_groups, groups_file, groups_of_pool, held_out_groups
from nnunet_ssl.data.manifest import Manifest
from nnunet_ssl.data.pool_index import PoolIndex
from nnunet_ssl.errors import ConfigError, InputError, StateError
from nnunet_ssl.locations import ModelLocation, start_over
from nnunet_ssl.nnunet_api.checkpoints import load_checkpoint, pool_images_seen
from nnunet_ssl.nnunet_api.setup import NnunetSetup


def groups_of_run(setup: NnunetSetup, pool: PoolIndex, manifest: Manifest | None, asked: str | None, workspace: Path) -> dict[str, str]:
    """Groups by case: as asked for, else the run's own once a stage is written (a control's from the beginning), else those kept.

    Args:
        setup: the labelled dataset and its plans.
        pool: the prepared pool as the run knows it.
        manifest: of the run; None where it begins.
        asked: as `--groups` takes it; None where nothing is asked for.
        workspace: of the run, for messages.

    Raises:
        InputError: if what is asked for cannot be used, or a pool case has no group among those that are kept.
        StateError: if other groups are asked for than the written stages have.
    """
    is_fixed = manifest is not None and (bool(manifest.stages) or manifest.control is not None)
    if asked is None:
        return manifest.groups if manifest is not None and is_fixed else _complete(groups_of_pool(pool), pool)
    groups = asked_groups(asked, setup, pool)
    if manifest is not None and is_fixed and groups != manifest.groups:
        raise StateError(f"the groups of {workspace} are fixed since its first stage; leave --groups out, or {start_over(workspace)}.")
    return groups


def _complete(groups: dict[str, str], pool: PoolIndex) -> dict[str, str]:
    if groups and (missing := [case for case in pool.case_ids if case not in groups]):
        raise InputError(
            f"{groups_file(pool.folder)} has no group for pool case '{missing[0]}' ({len(missing)} of {len(pool.images)}); give --groups "
            "again."
        )
    return groups


def left_out_groups(setup: NnunetSetup, fold: int | str, groups: Mapping[str, str]) -> list[str]:
    """Groups that a fold holds out, for a run in which neither teacher nor student is to see any case of them.

    Raises:
        ConfigError: if the fold does not hold out whole groups.
    """
    if fold == "all":
        raise ConfigError("--leave-group-out leaves out what a fold validates on; with -f all every label trains.")
    if not groups:
        raise ConfigError("--leave-group-out needs the groups of pool and labelled cases; give them with --groups.")
    if missing := [case for case in setup.labelled_cases if case not in groups]:
        raise ConfigError(f"--leave-group-out: labelled case '{missing[0]}' has no group ({len(missing)} such cases); add it to --groups.")
    train, validation = setup.fold_cases(fold)
    held_out = held_out_groups(train, validation, groups)
    for case in validation:
        if groups[case] not in held_out:
            other = next(c for c in train if groups[c] == groups[case])
            raise ConfigError(
                f"--leave-group-out: fold {fold} validates on '{case}' and trains on '{other}', both of group '{groups[case]}'; it needs "
                "folds of whole groups, as nnssl_prepare --group-folds writes them."
            )
    return held_out


def still_left_out(manifest: Manifest, workspace: Path, *, asked: bool) -> list[str]:
    """Groups that a run which has begun leaves out.

    Raises:
        StateError: if the run began with these groups in its pool.
    """
    if asked and not manifest.left_out_groups:
        raise StateError(f"the run in {workspace} began without --leave-group-out; {start_over(workspace)}.")
    return manifest.left_out_groups


def without_groups(pool: PoolIndex, groups: Mapping[str, str], left_out: Sequence[str]) -> PoolIndex:
    """The pool without the cases of some groups.

    Raises:
        ConfigError: if nothing is left.
    """
    images = {case: files for case, files in pool.images.items() if groups.get(case) not in left_out}
    if not images:
        raise ConfigError(f"--leave-group-out: every case of the pool is of a group that the fold holds out ({', '.join(left_out)}).")
    return replace(pool, images=images)


def check_teacher_has_not_seen(teacher: ModelLocation, fold: int | str, groups: Mapping[str, str], left_out: Sequence[str]) -> None:
    """See that a trained teacher knows no pool image of groups, as far as its checkpoint tells; labelled cases are the splits' affair.

    Raises:
        StateError: if it has learned from some, or does not say.
    """
    checkpoint = teacher.checkpoint(fold)
    seen = pool_images_seen(load_checkpoint(checkpoint))
    if seen is None:
        raise StateError(
            f"{checkpoint} does not say which pool images the teacher has learned from, so it may know the group that is left out; train "
            "it again, or take a trainer of nnU-Net (-tr nnUNetTrainer)."
        )
    if known := [case for case in seen if groups.get(case) in left_out]:
        raise StateError(
            f"the teacher of fold {fold} has learned from the image of pool case '{known[0]}' of group '{groups[known[0]]}' ({len(known)} "
            f"such cases); remove {checkpoint.parent} and train it again: groups that nnssl_prepare knows by then are left out."
        )
