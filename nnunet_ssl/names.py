"""Names that come from files and become file names: they must not lead out of their folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from nnunet_ssl.errors import InputError

_SEPARATORS = "/\\"


def check_names(names: Iterable[Any], what: str, source: Path) -> None:
    """See that names are those of files in a folder, and of nothing above or below it.

    Args:
        names: as they were read.
        what: they are, for instance `case id`.
        source: the file that they stand in.

    Raises:
        InputError: for anything but a text without separators and control characters that is neither `.` nor `..`.
    """
    for name in names:
        if not _is_name(name):
            raise InputError(f"{source} has the {what} {name!r}, which is no plain file name; correct it, and look where the file is from.")


def check_relative_path(path: Any, what: str, source: Path) -> None:
    """See that a path, relative to a folder, stays inside it.

    Args:
        path: as it was read, with `/` between its parts.
        what: it is, for instance `workspace`.
        source: the file that it stands in.

    Raises:
        InputError: for an absolute path, or one with a part that is no plain name.
    """
    if not isinstance(path, str) or not path or not all(map(_is_name, PurePosixPath(path).parts)):
        raise InputError(f"{source} has the {what} {path!r}, which leads out of its folder; correct it, and look where the file is from.")


def _is_name(name: Any) -> bool:
    if not isinstance(name, str) or name in ("", ".", ".."):
        return False
    return not any(letter in _SEPARATORS or ord(letter) < 32 for letter in name)
