"""Dataset ids that are free."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from nnunet_ssl.disk import naming
from nnunet_ssl.errors import ConfigError, SetupError, StateError
from nnunet_ssl.locations import dataset_number, manifests_below, preprocessed_root, raw_root, results_root
from nnunet_ssl.nnunet_api.json_file import read_json

FIRST_ID = 601
LAST_ID = 999
LOCK_FILE = ".nnssl_ids.lock"
"""In nnUNet_results: whoever holds it may allot ids. The operating system frees it when its holder dies."""
_FOR_EVERYBODY = 0o666
"""Permissions of the lock, whatever the umask: several people may share nnUNet_results, and who locks a file has to open it for writing."""


@contextmanager
def allotting() -> Iterator[None]:
    """Let one process at a time, on any machine, find free ids and write the manifest that takes them.

    Raises:
        OSError: with the name of the lock, if the file system refuses it.
    """
    results_root().mkdir(parents=True, exist_ok=True)
    path = results_root() / LOCK_FILE
    lock = FileLock(path, mode=_FOR_EVERYBODY)
    with naming(path):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def allot_ids(count: int, first_id: int | None, *, own: Collection[str] = (), written: int = 0) -> list[int]:
    """A block of consecutive dataset ids that no folder of nnU-Net and no other run uses.

    Args:
        count: ids in the block.
        first_id: the first one; None takes the first free block from 601.
        own: names of the stage datasets that the run has ids for already, and that are not written.
        written: ids at the beginning of the block that nobody needs.

    Raises:
        StateError: if an id of the block that is asked for is in use.
        ConfigError: if that block leaves the range of nnU-Net's ids.
        SetupError: if no block is free.
    """
    taken = _taken(own)
    if first_id is not None:
        block = list(range(first_id, first_id + count))
        if first_id < 1 or block[-1] > LAST_ID:
            raise ConfigError(f"--first-id {first_id} with {count} stages leaves the range 1 to {LAST_ID} of nnU-Net's ids.")
        if clash := sorted(taken.keys() & set(block[written:])):
            raise StateError(f"the dataset id {clash[0]} is already in use by {taken[clash[0]]}; choose another --first-id.")
        return block
    for start in range(FIRST_ID, LAST_ID + 2 - count):
        if not taken.keys() & set(range(start, start + count)):
            return list(range(start, start + count))
    raise SetupError(f"no {count} consecutive dataset ids are free from {FIRST_ID} on; choose a block with --first-id.")


def _taken(own: Collection[str]) -> dict[int, Path]:
    """Ids in use, and the folder or the manifest that has each of them; those that the run has for stages that are not written are free."""
    taken = {
        dataset_number(folder.name): folder
        for root in (raw_root(), preprocessed_root(), results_root())
        if root.is_dir()
        for folder in root.glob("Dataset[0-9][0-9][0-9]*")  # what nnU-Net takes an id to be, with or without _
        if folder.name not in own
    }
    for manifest in manifests_below(results_root(), "*/*/"):  # blocks of other runs, whether written yet or not
        others = set(read_json(manifest).get("dataset_ids", [])) - {dataset_number(name) for name in own}
        taken |= dict.fromkeys(others, manifest)
    return taken
