"""Files written whole or not at all, and links that fall back to copies."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nnunet_ssl.disk import flush_to_disk, naming

OWN_PREFIX = ".nnssl_"
"""Of files of ours that are no data and may lie beside data."""
TEMPORARY_PREFIX = f"{OWN_PREFIX}tmp_"
"""Never `Dataset...`: nnU-Net would take a temporary folder of that name for a dataset. Host and process follow, then anything."""

_ACTIVE = ("=", "+", "-", "@", "\t", "\r", "'")
"""What begins a formula in a spreadsheet, and the apostrophe that says that nothing does."""

_LONGEST_USE_SECONDS = 24 * 3600
"""No process leaves what it works on alone for longer; the rest of one that was killed on another host goes after this time."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder that takes the place of `path` when the block succeeds, and vanishes when it does not.

    Raises:
        OSError: with the name of `path`, if the file system has no room for it, or for other reasons does not take it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{_own_prefix()}{path.name}"
    temporary.unlink(missing_ok=True)  # writing would follow a link that somebody has put there
    try:
        with naming(path, temporary=temporary):
            yield temporary
            flush_to_disk(temporary)
            os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A folder inside `parent` that is removed afterwards, whatever happens."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=_own_prefix(), dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def mark_in_use(*folders: Path) -> None:
    """Give temporary folders the present time, by which another host sees that they are worked on; files deeper in them leave it alone."""
    for folder in folders:
        os.utime(folder)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that it is never there in part: it loses its name first, and what a killed process leaves of it is a leftover."""
    with temporary_folder(folder.parent) as removed:
        os.rename(folder, removed / folder.name)


def remove_leftovers(parent: Path) -> None:
    """Remove temporary files and folders that a killed process left in `parent`; those of a process that still runs are its own."""
    for leftover in sorted(parent.glob(f"{TEMPORARY_PREFIX}*")):
        if _is_in_use(leftover):
            continue
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def this_host() -> str:
    """Name of the machine whose processes this one can see by their numbers; containers on one machine may have one host name."""
    with suppress(OSError):
        return f"{socket.gethostname()}-{re.sub(r'[^0-9]', '', os.readlink('/proc/self/ns/pid'))}"
    return socket.gethostname()


def _host_prefix() -> str:
    return f"{TEMPORARY_PREFIX}{this_host()}_"


def _own_prefix() -> str:
    return f"{_host_prefix()}{os.getpid()}_"


def _is_in_use(path: Path) -> bool:
    """Whether something temporary belongs to a running process: of this host by its number, of another host by its age."""
    if not re.match(re.escape(TEMPORARY_PREFIX) + r".+_\d+_", path.name):
        return False
    if not path.name.startswith(_host_prefix()):
        with suppress(FileNotFoundError):
            return time.time() - path.stat().st_mtime < _LONGEST_USE_SECONDS
        return False
    try:
        os.kill(int(path.name.removeprefix(_host_prefix()).partition("_")[0]), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all; key order is kept."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table whole or not at all; None becomes an empty cell, and no text one that a spreadsheet would take for a formula."""
    cells = [{c: "" if row.get(c) is None else _inert(row[c]) for c in columns} for row in rows]
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(cells)


def _inert(value: Any) -> Any:
    """Case ids are names of files, which anybody may have chosen; an apostrophe before a text is what spreadsheets hide."""
    if not isinstance(value, str) or not value.startswith(_ACTIVE):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def cell_text(cell: str) -> str:
    """The text that `write_csv` has written into a cell."""
    return cell.removeprefix("'")


def link(source: Path, destination: Path, *, lasting: Path | None = None, may_be_symbolic: bool = True) -> None:
    """Hard link, or a symbolic link across file systems, or a copy where neither exists; an existing destination is left alone.

    The linked file must never be written through: that would change the source.

    Args:
        source: the file.
        destination: the link.
        lasting: where the source will be found once the folder that it was written in is renamed; what a symbolic link has to name.
        may_be_symbolic: whether a symbolic link will do, as where the source keeps its name as long as the destination is wanted.

    Raises:
        FileNotFoundError: if the source does not exist (a symbolic link to it could be made all the same).
    """
    if destination.exists():
        return
    try:
        source = source.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # a link that leads to itself raises either
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source)) from error
    ways: list[tuple[Callable[..., None], Path]] = [(os.link, source), (os.symlink, lasting or source)]
    for make, path in ways if may_be_symbolic else ways[:1]:
        try:
            make(path, destination)
        except OSError:
            continue
        return
    copy_file(source, destination)


def copy_file(source: Path, destination: Path) -> None:
    """Copy a file whole or not at all; a file or link that stands in its place gives way."""
    with replacing(destination) as temporary:
        shutil.copyfile(source, temporary)
