"""The index of a prepared pool: which cases it has, from which image files, and what they looked like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_ssl.data.case_names import name_problem
from nnunet_ssl.errors import NnsslError, SetupError, StateError
from nnunet_ssl.locations import dataset_number, plans_flag, pool_folder, pool_index, preprocessed_root
from nnunet_ssl.names import check_names
from nnunet_ssl.nnunet_api.json_file import read_json
from nnunet_ssl.nnunet_api.preprocessing import PARTS
from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.schemas import schema_of

SCHEMA = 2


@dataclass(frozen=True)
class PoolIndex:
    """A prepared pool."""

    folder: Path
    """Preprocessed files; one `.b2nd`, `_seg.b2nd` (-1 outside the nonzero mask, else 0) and `.pkl` a case."""
    images: Mapping[str, tuple[str, ...]]
    """Image files of every case, one per channel, by case id in sorted order."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Cases left out, and why: bad ones with `--skip-bad`, and for a run that has begun those that came later."""

    @property
    def case_ids(self) -> list[str]:
        return sorted(self.images)


def load_pool(setup: NnunetSetup) -> PoolIndex:
    """The pool that `nnssl_prepare` made.

    Raises:
        SetupError: if there is none for these plans.
        StateError: if files of it are gone.
    """
    folder, index_file = pool_places(setup)
    if not index_file.is_file():
        number = dataset_number(setup.dataset)
        raise SetupError(
            f"no pool is prepared for {setup.dataset} {setup.configuration} ({setup.plans_name}); run: "
            f"nnssl_prepare -d {number} -c {setup.configuration}{plans_flag(setup.plans_name)} -u FOLDER"
        )
    pool = read_index(folder, index_file)
    if gone := [path for case in pool.case_ids for part in PARTS if not (path := folder / f"{case}{part}").is_file()]:
        raise StateError(f"{gone[0]}, preprocessed for the pool, is missing; run nnssl_prepare again.")
    return pool


def find_pool(plans_manager: Any, configuration: str) -> PoolIndex | None:
    """The prepared pool that belongs to a configuration of plans, or None; for trainers, which hold nnU-Net's manager."""
    dataset_json = read_json(preprocessed_root() / plans_manager.dataset_name / "dataset.json")
    setup = NnunetSetup(plans_manager.dataset_name, plans_manager.plans_name, configuration, plans_manager.plans, dataset_json)
    folder, index_file = pool_places(setup)
    return read_index(folder, index_file) if index_file.is_file() else None


def read_index(folder: Path, index_file: Path) -> PoolIndex:
    """The pool as its index has it.

    Raises:
        StateError: if the index is damaged or of a newer version.
        InputError: if it is no JSON or has strange names.
    """
    content = _checked_index(read_json(index_file), index_file)
    images = {case: tuple(entry["images"]) for case, entry in sorted(content["cases"].items())}
    return PoolIndex(folder, images, {case: entry["reason"] for case, entry in content["skipped"].items()})


def _checked_index(content: dict[str, Any], index_file: Path) -> dict[str, Any]:
    """The content of an index that has everything and no strange name.

    Raises:
        StateError: if it does not.
    """
    schema_of(content, SCHEMA, index_file)
    kinds = {"cases": dict, "skipped": dict, "folders": list, "set_aside": dict}
    content = _migrated(content)
    is_whole = all(isinstance(content.get(key), kind) for key, kind in kinds.items())
    if is_whole:
        check_names([*content["cases"], *content["set_aside"]], "case id", index_file)
        is_whole = all(_is_sound_entry(case, entry) for case, entry in content["cases"].items())
        is_whole = is_whole and all(map(_is_sound_reason, content["skipped"].values()))
    if not is_whole:
        raise StateError(f"{index_file} is damaged: a part of it is missing or of another kind; run nnssl_prepare again.")
    return content


def _migrated(content: dict[str, Any]) -> dict[str, Any]:
    """An index of an older schema in the present form; 1 knew neither what skipped images looked like nor cases that were set aside."""
    if content["schema"] == 1 and isinstance(content.get("skipped"), dict):
        skipped = {case: {"reason": reason, "stamp": None} for case, reason in content["skipped"].items()}
        return {**content, "skipped": skipped, "set_aside": {}, "schema": SCHEMA}
    return content


def _is_sound_entry(case: str, entry: Any) -> bool:
    """Whether an entry can be of a case that `find_images` has found."""
    if name_problem(case) is not None or not isinstance(entry, dict) or "stamp" not in entry:
        return False
    images = entry.get("images")
    return isinstance(images, list) and bool(images) and all(isinstance(image, str) for image in images)


def _is_sound_reason(entry: Any) -> bool:
    """Whether an entry can be of a case that was skipped."""
    return isinstance(entry, dict) and isinstance(entry.get("reason"), str) and "stamp" in entry


def index_content(index_file: Path) -> dict[str, Any] | None:
    """The index as it stands on disk; None where there is none or it cannot be used."""
    if not index_file.is_file():
        return None
    try:
        return _checked_index(read_json(index_file), index_file)
    except NnsslError:
        return None


def indexed_stamps(index_file: Path) -> dict[str, Any]:
    """What the images of cases that were preprocessed looked like: those of the index, and those that it has set aside."""
    index = index_content(index_file)
    return {**index["set_aside"], **{case: entry["stamp"] for case, entry in index["cases"].items()}} if index else {}


def pool_places(setup: NnunetSetup) -> tuple[Path, Path]:
    """Folder and index of the pool that belongs to plans, whether they exist or not."""
    identifier, data_hash = setup.configuration_manager.data_identifier, setup.data_hash()
    return pool_folder(setup.dataset, identifier, data_hash), pool_index(setup.dataset, identifier, data_hash)
