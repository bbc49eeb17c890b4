"""Files written whole or not at all, and links that fall back to copies."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

TEMPORARY_PREFIX = ".nnssl_tmp_"
"""Never `Dataset...`: nnU-Net would take a temporary folder of that name for a dataset."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder that takes the place of `path` when the block succeeds, and vanishes when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{TEMPORARY_PREFIX}{os.getpid()}_{path.name}"
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A folder inside `parent` that is removed afterwards, whatever happens."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(parent: Path) -> None:
    """Remove temporary files and folders that a killed process left in `parent`."""
    for leftover in sorted(parent.glob(f"{TEMPORARY_PREFIX}*")):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all; key order is kept."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table whole or not at all; None becomes an empty cell."""
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows([{c: "" if row.get(c) is None else row[c] for c in columns} for row in rows])


def link(source: Path, destination: Path) -> None:
    """Hard link, or a symbolic link across file systems, or a copy where neither exists; an existing destination is left alone.

    The linked file must never be written through: that would change the source.

    Raises:
        FileNotFoundError: if the source does not exist (a symbolic link to it could be made all the same).
    """
    if destination.exists():
        return
    source = source.resolve(strict=True)
    for make in (os.link, os.symlink, shutil.copyfile):
        try:
            make(source, destination)
        except OSError:
            continue
        return
    shutil.copyfile(source, destination)
