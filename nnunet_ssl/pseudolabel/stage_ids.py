"""Which dataset ids the stages of a run have: a stage that is written keeps its own, the others may get new ones."""

from __future__ import annotations

from pathlib import Path

from nnunet_ssl.data.manifest import Manifest
from nnunet_ssl.locations import stage_dataset_name
from nnunet_ssl.pseudolabel.dataset_ids import allot_ids, allotting
from nnunet_ssl.pseudolabel.run import Run


def check_ids(workspace: Path, num_stages: int, first_id: int | None) -> None:
    """See that the stages of a run can have the ids that are asked for; said before anything is trained.

    Raises:
        NnsslError: as `ids_of_stages` does.
    """
    ids_of_stages(Manifest.load(workspace), num_stages, first_id)


def ids_of_stages(manifest: Manifest | None, num_stages: int, first_id: int | None) -> list[int]:
    """The ids that the stages of a run have, or get now: stage t the t-th of the block. A stage that is written keeps its own.

    Args:
        manifest: of the run, or None where it has not begun.
        num_stages: how many there will be.
        first_id: the first id of the block; None leaves the ids as they are while there are enough, and else takes the first free block.

    Raises:
        StateError: if an id of the block that is asked for is in use, by a stage of the run that is written for instance.
        ConfigError: if that block leaves the range of nnU-Net's ids.
        SetupError: if no block is free.
    """
    if manifest is None:
        return allot_ids(num_stages, first_id)
    written, own = manifest.dataset_ids[: len(manifest.stages)], manifest.dataset_ids
    if manifest.is_complete or (first_id is None and num_stages <= len(own)):
        return own
    count = len(written)
    unwritten = enumerate(own[count:], start=count + 1)
    names = [stage_dataset_name(number, manifest.dataset, manifest.fold, stage) for stage, number in unwritten]
    return written + allot_ids(num_stages, first_id, own=names, written=count)[count:]


def allot_again(run: Run, num_stages: int, first_id: int | None, *, only_looks: bool) -> None:
    """Give the stages the ids of `ids_of_stages`.

    Args:
        run: the run; its manifest is as it was saved, but for ids.
        num_stages: how many stages there will be.
        first_id: the first id of the block that is asked for, if any.
        only_looks: leave the manifest on disk as it is; else other ids are saved at once, so that no other run takes them.

    Raises:
        NnsslError: as `ids_of_stages` does.
        StateError: if another process changes the run.
    """
    manifest = run.manifest
    ids = ids_of_stages(manifest, num_stages, first_id)
    if only_looks or ids == manifest.dataset_ids:
        manifest.dataset_ids = ids
        return
    with allotting():
        if (on_disk := Manifest.load(run.workspace)) is not None:
            manifest.dataset_ids = on_disk.dataset_ids  # another process, of another part, may have been first
        ids = ids_of_stages(manifest, num_stages, first_id)
        if ids != manifest.dataset_ids:
            with run.changing():
                manifest.dataset_ids = ids
                manifest.save(run.workspace)
