"""Groups of cases, such as scanners or sites: read from a table or from the folders of the pool, and kept beside the pool."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nnunet_ssl.data.files import write_json
from nnunet_ssl.data.pool_index import PoolIndex
from nnunet_ssl.errors import InputError, StateError
from nnunet_ssl.nnunet_api.json_file import read_json_or_none
from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.schemas import schema_of

COLUMNS = ("case", "group")
FOLDERS = "folders"
"""In place of a table: every folder of the pool is a group."""
NONE = "none"
"""In place of a table: there are no groups, whatever was given before."""
SCHEMA = 1


def check_asked(asked: str | None) -> None:
    """Read a table that is asked for, so that a bad one is found at once.

    Args:
        asked: as `--groups` takes it: a table, `folders` or `none`; None where the flag is not given.

    Raises:
        InputError: see `read_table`.
    """
    if asked is not None and asked not in (FOLDERS, NONE):
        read_table(Path(asked))


def asked_groups(asked: str, setup: NnunetSetup, pool: PoolIndex) -> dict[str, str]:
    """Groups as asked for, by case: every pool case has one, or none has.

    Args:
        asked: see `check_asked`.
        setup: whose labelled cases may have groups, too.
        pool: the prepared pool.

    Raises:
        InputError: if the table is bad, names an unknown case or lacks a pool case, or the pool has one folder.
    """
    if asked == NONE:
        return {}
    if asked == FOLDERS:
        return _groups_of_folders(pool)
    groups = read_table(Path(asked))
    known = {*pool.case_ids, *pool.skipped, *setup.labelled_cases}
    if unknown := [case for case in groups if case not in known]:
        raise InputError(
            f"{asked}: '{unknown[0]}' is neither a case of the pool nor a labelled case of {setup.dataset} ({len(unknown)} such lines); "
            "name cases without channel and file ending, and remove lines of other cases."
        )
    if missing := [case for case in pool.case_ids if case not in groups]:
        raise InputError(f"{asked} has no group for pool case '{missing[0]}' ({len(missing)} of {len(pool.images)}); add a line for it.")
    return {case: group for case, group in sorted(groups.items()) if case not in pool.skipped}


def read_table(path: Path) -> dict[str, str]:
    """Read a table with the columns `case` and `group`; further columns are ignored.

    Returns:
        Group by case, in the order of the lines.

    Raises:
        InputError: if the file is missing, not UTF-8, no such table, or has a line without case or group, or a case twice.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file; --groups takes a CSV table with the columns case,group, or the word {FOLDERS} or {NONE}.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start + 1}); save the table as UTF-8.") from error
    groups: dict[str, str] = {}
    for line, case, group in _rows(path, text):
        if not case:
            raise InputError(f"{path}, line {line}: the case is missing.")
        if not group:
            raise InputError(f"{path}, line {line}: case '{case}' has an empty group; name one, or remove the line of a labelled case.")
        if not (case.isprintable() and group.isprintable()):
            raise InputError(f"{path}, line {line}: a name holds a line break or another control character.")
        if case in groups:
            raise InputError(f"{path}, line {line}: case '{case}' stands there twice; remove one of the lines.")
        groups[case] = group
    if not groups:
        raise InputError(f"{path} lists no case.")
    return groups


def _rows(path: Path, text: str) -> Iterator[tuple[int, str, str]]:
    """Number, case and group of every line that is not empty."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        for column in COLUMNS:
            if (times := header.count(column)) != 1:
                found = f"has {times} columns '{column}'" if times else f"has no column '{column}'"
                raise InputError(f"{path} {found}: its first line is '{','.join(header)}', and must name the columns: case,group.")
        places = [header.index(column) for column in COLUMNS]
        for cells in reader:
            if any(cell.strip() for cell in cells):
                case, group = (cells[i].strip() if i < len(cells) else "" for i in places)
                yield reader.line_num, case, group
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: cannot be read as CSV ({error}).") from error


def _groups_of_folders(pool: PoolIndex) -> dict[str, str]:
    """The folder that each pool case lies in, by as much of its path as tells it from the others."""
    folders = {case: Path(files[0]).parent for case, files in pool.images.items()}
    if len(different := set(folders.values())) < 2:
        raise InputError(f"--groups {FOLDERS}: all pool images lie in {next(iter(different))}; give several folders to -u, or a table.")
    length = next(n for n in range(1, 1 + max(len(f.parts) for f in different)) if len({f.parts[-n:] for f in different}) == len(different))
    return {case: "/".join(folder.parts[-length:]) for case, folder in folders.items()}


def keep_groups(pool: PoolIndex, groups: Mapping[str, str]) -> None:
    """Keep groups beside the pool, for the trainings and runs that begin from now on; nothing is kept where there are none.

    Those of cases that the pool skips, since they came after a run began, stay as they are. A damaged file is replaced.

    Raises:
        StateError: if the file is of a newer schema.
    """
    path = groups_file(pool.folder)
    if not groups:
        path.unlink(missing_ok=True)
        return
    kept = _read_groups(path) or {}
    content = {**{case: group for case, group in kept.items() if case in pool.skipped}, **groups}
    if content != kept:
        write_json(path, {"schema": SCHEMA, "groups": content})


def groups_of_pool(pool: PoolIndex) -> dict[str, str]:
    """Groups that are kept beside a pool, without those of cases that it skips.

    Raises:
        StateError: see `kept_groups`.
    """
    return {case: group for case, group in kept_groups(pool.folder).items() if case not in pool.skipped}


def kept_groups(pool_folder: Path) -> dict[str, str]:
    """Groups that are kept beside a pool, by case; empty where there are none.

    Raises:
        StateError: if the file is damaged or of a newer schema.
    """
    path = groups_file(pool_folder)
    groups = _read_groups(path)
    if groups is None:
        raise StateError(f"{path} is damaged; give --groups to nnssl_prepare again.")
    return groups


def _read_groups(path: Path) -> dict[str, str] | None:
    """Groups in a file, empty where there is none; None where it is damaged."""
    if not path.is_file():
        return {}
    if (content := read_json_or_none(path)) is None:
        return None
    schema_of(content, SCHEMA, path)
    groups = content.get("groups")
    if not isinstance(groups, dict) or not all(isinstance(group, str) for group in groups.values()):
        return None
    return groups


def groups_file(pool_folder: Path) -> Path:
    """Where the groups of a pool are kept."""
    return pool_folder.with_name(f"{pool_folder.name}_groups.json")


def held_out_groups(train: Sequence[str], validation: Sequence[str], groups: Mapping[str, str]) -> list[str]:
    """Groups of a fold's validation cases that no training case belongs to, sorted."""
    return sorted({groups[case] for case in validation if case in groups} - {groups[case] for case in train if case in groups})


def describe_groups(groups: Mapping[str, str], cases: Sequence[str]) -> str:
    """Number of cases by group, for a message: `north 12, south 30`."""
    counts = Counter(groups[case] for case in cases if case in groups)
    return ", ".join(f"{group} {counts[group]}" for group in sorted(counts))
