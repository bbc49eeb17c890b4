"""Folders of probabilities that something else predicted for the pool: one file per case, one folder per sample."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path

from tqdm import tqdm

from nnunet_ssl.data.pool_index import PoolIndex
from nnunet_ssl.errors import ConfigError, InputError
from nnunet_ssl.nnunet_api.checkpoints import fingerprint
from nnunet_ssl.nnunet_api.preprocessing import load_properties
from nnunet_ssl.nnunet_api.probability_file import read_probabilities
from nnunet_ssl.nnunet_api.setup import NnunetSetup

ENDING = ".npz"


def find_predictions(folders: Sequence[Path], cases: Sequence[str], others: Collection[str] = ()) -> list[dict[str, Path]]:
    """The file of every case in every folder.

    Args:
        folders: as given.
        cases: the run's.
        others: cases that may have files as well, since they came to the pool after the run began.

    Raises:
        ConfigError: if a folder is given twice.
        InputError: if a folder does not exist, lacks a case, or has one that is not in the pool.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError("--from-predictions names a folder twice; every folder is one sample.")
    return [_cases_of(folder, set(cases), others) for folder in folders]


def _cases_of(folder: Path, cases: Collection[str], others: Collection[str]) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; --from-predictions takes folders that nnUNetv2_predict or nnUNetv2_ensemble wrote.")
    found = {path.stem: path for path in sorted(folder.glob(f"*{ENDING}"))}
    if missing := sorted(case for case in cases if case not in found):
        raise InputError(
            f"{folder / (missing[0] + ENDING)} is missing ({len(missing)} of {len(cases)} pool cases have no file); predict the whole pool "
            "with nnUNetv2_predict --save_probabilities, or merge predictions with nnUNetv2_ensemble --save_npz."
        )
    if surplus := [case for case in found if case not in cases and case not in others]:
        raise InputError(f"{found[surplus[0]]} belongs to no case of the pool ({len(surplus)} such files); move it away.")
    return {case: path for case, path in found.items() if case in cases}


def check_predictions(files: Sequence[dict[str, Path]], setup: NnunetSetup, pool: PoolIndex) -> None:
    """Read every file once, so that a run does not begin with predictions that cannot be used.

    Raises:
        InputError: see `read_probabilities`.
    """
    for case in tqdm(pool.case_ids, desc="checking the predictions"):
        properties = load_properties(pool.folder, case)
        for of_folder in files:
            read_probabilities(case, of_folder[case], setup, properties)


def stamp(files: Sequence[dict[str, Path]]) -> str:
    """Changes when a file is exchanged or touched; costs no reading."""
    return _digest([[case, *_state(path)] for of_folder in files for case, path in of_folder.items()])


def content_fingerprint(files: Sequence[dict[str, Path]]) -> str:
    """Changes when the content of a file does, wherever the folders are and in whatever order they are named."""
    return _content_fingerprint(tuple(tuple((case, path, *_state(path)) for case, path in of_folder.items()) for of_folder in files))


@functools.lru_cache(maxsize=8)
def _content_fingerprint(files: tuple[tuple[tuple[str, Path, int, int], ...], ...]) -> str:
    folders = [[[case, fingerprint(path)] for case, path, *_ in tqdm(of_folder, desc="identifying the predictions")] for of_folder in files]
    return _digest(sorted(folders))


def _state(path: Path) -> tuple[int, int]:
    return path.stat().st_size, path.stat().st_mtime_ns


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]
