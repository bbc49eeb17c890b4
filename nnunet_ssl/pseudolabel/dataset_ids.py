"""Which dataset ids the stages of a run get."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from filelock import FileLock

from nnunet_ssl.errors import ConfigError, SetupError, StateError
from nnunet_ssl.locations import dataset_number, preprocessed_root, raw_root, results_root
from nnunet_ssl.nnunet_api.json_file import read_json

FIRST_ID = 601
LAST_ID = 999
LOCK_FILE = ".nnssl_ids.lock"
"""In nnUNet_results: whoever holds it may allot ids. The operating system frees it when its holder dies."""


@contextmanager
def allotting() -> Iterator[None]:
    """Let one process at a time, on any machine, find free ids and write the manifest that takes them."""
    results_root().mkdir(parents=True, exist_ok=True)
    with FileLock(results_root() / LOCK_FILE):
        yield


def allot_ids(count: int, first_id: int | None, own: Sequence[int] = ()) -> list[int]:
    """A block of consecutive dataset ids that no folder of nnU-Net and no other run uses.

    Args:
        count: ids in the block.
        first_id: the first one; None takes the first free block from 601.
        own: what the run has already.

    Raises:
        StateError: if an id of the block that is asked for is in use.
        ConfigError: if that block leaves the range of nnU-Net's ids.
        SetupError: if no block is free.
    """
    taken = {
        dataset_number(folder.name)
        for root in (raw_root(), preprocessed_root(), results_root())
        if root.is_dir()
        for folder in root.glob("Dataset[0-9][0-9][0-9]_*")
    }
    for manifest in results_root().glob("*/*/fold_*/nnssl/manifest.json"):  # blocks of other runs, whether written yet or not
        taken |= set(read_json(manifest).get("dataset_ids", []))
    taken -= set(own)
    if first_id is not None:
        block = list(range(first_id, first_id + count))
        if clash := sorted(taken & set(block)):
            raise StateError(f"the dataset id {clash[0]} is already in use; choose another --first-id.")
        if first_id < 1 or block[-1] > LAST_ID:
            raise ConfigError(f"--first-id {first_id} with {count} stages leaves the range 1 to {LAST_ID} of nnU-Net's ids.")
        return block
    for start in range(FIRST_ID, LAST_ID + 2 - count):
        if not taken & set(range(start, start + count)):
            return list(range(start, start + count))
    raise SetupError(f"no {count} consecutive dataset ids are free from {FIRST_ID} on; choose a block with --first-id.")
