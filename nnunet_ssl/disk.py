"""File systems: how much they have left, and what an error of theirs means, in one line.

Nothing here imports nnunetv2 or torch.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from nnunet_ssl.errors import StateError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a full file system and of a used-up quota."""
_PROBE_BYTES = 16 * 1024**2
"""More than what nnU-Net's writers hand over at once (6 MiB): where a write of theirs found no room, as much as this has none either."""
_MEANINGS = {
    errno.EROFS: "the file system is mounted read-only; choose a folder that can be written to",
    errno.EACCES: "permission denied; change the permissions or choose another folder",
    errno.EPERM: "the operation is not permitted; change the permissions or choose another folder",
    errno.ENAMETOOLONG: "the name is too long for the file system; shorten the name of the case or of the folder",
    errno.EFBIG: "the file would be larger than the file system or the limit of this process (ulimit -f) allows",
    errno.ENOTDIR: "a file stands where a folder is expected; move it away or choose another folder",
    errno.EEXIST: "a file stands where a folder is expected; move it away or choose another folder",
    errno.EISDIR: "a folder stands where a file is expected; move it away",
    errno.ELOOP: "symbolic links lead round in a circle; remove them",
    errno.EMFILE: "too many files are open at once; raise the limit (ulimit -n)",
    errno.EIO: "the disk reports an input/output error; look at the system's log",
    errno.ESTALE: "the network drive has lost the file; mount it again",
    errno.ENOLCK: "the file system gives no locks; start the lock service of the network drive, or choose a folder on another one",
    errno.ENOSYS: "the file system does not support this (locks, for instance); choose a folder on another one",
    errno.EOPNOTSUPP: "the file system does not support this (locks, for instance); choose a folder on another one",
}
_AGAIN = "make space there and give the same command again: it continues"


def existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def file_system(path: Path) -> Path:
    """Where the file system that holds (or would hold) a path is mounted."""
    place = existing(path).resolve()
    while not os.path.ismount(place):
        place = place.parent
    return place


def free_bytes(path: Path) -> int:
    """Bytes left for this user on the file system that holds (or would hold) a path."""
    return shutil.disk_usage(existing(path)).free


def megabytes(num_bytes: float) -> str:
    """A number of bytes for people: whole megabytes, below ten with one decimal."""
    value = num_bytes / 1e6
    return f"{value:.1f} MB" if value < 10 else f"{value:.0f} MB"


def require_free(folder: Path, num_bytes: float, what: str) -> None:
    """See that a file system has room for what is about to be written.

    Args:
        folder: where it will be written; need not exist.
        num_bytes: an estimate.
        what: for the message, for instance `the pool`.

    Raises:
        StateError: with what is needed, what is free and where.
    """
    if (free := free_bytes(folder)) < num_bytes:
        raise StateError(
            f"{what} needs about {megabytes(num_bytes)} in {folder}, and {megabytes(free)} are free on its file system "
            f"{file_system(folder)}; {_AGAIN}."
        )


def require_free_together(needs: Mapping[Path, float], what: str) -> None:
    """As `require_free`, for a step that writes into several folders, which may lie on one file system or on several.

    Args:
        needs: estimated bytes by folder.
        what: for the message.

    Raises:
        StateError: for the first file system that has too little room.
    """
    first: dict[int, Path] = {}
    total: dict[Path, float] = {}
    for folder, num_bytes in needs.items():
        place = first.setdefault(existing(folder).stat().st_dev, folder)
        total[place] = total.get(place, 0) + num_bytes
    for folder, num_bytes in total.items():
        require_free(folder, num_bytes, what)


def meaning(error: OSError) -> str | None:
    """What an error of the file system means and what to do, in one line; None where it is a defect of ours."""
    path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
    if error.errno in FULL and path is not None:
        quota = "your quota is used up on" if error.errno == errno.EDQUOT else "no space is left on"
        return f"{path} could not be written: {quota} the file system {file_system(path)} ({megabytes(free_bytes(path))} free); {_AGAIN}."
    if error.errno in FULL:
        return f"a file could not be written: no space is left on its file system; {_AGAIN}."
    if error.errno not in _MEANINGS or path is None:
        return None
    return f"{path}: {_MEANINGS[error.errno]}."


def flush_to_disk(path: Path) -> None:
    """Wait until a file is on the disk; file systems that allot space late say only then that there is none.

    Raises:
        OSError: if a part of the file could not be written.
    """
    with naming(path):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def require_room(path: Path, num_bytes: int = _PROBE_BYTES) -> None:
    """Ask the file system for room beside a path and give it back; for writers that do not say why they failed.

    Raises:
        OSError: with the path's name, if there is no such room.
    """
    probe = path.parent / f".nnssl_tmp_probe_{os.getpid()}"
    with naming(path, temporary=probe):
        try:
            handle = os.open(probe, os.O_CREAT | os.O_WRONLY, 0o600)
            try:
                os.posix_fallocate(handle, 0, max(1, num_bytes))
            finally:
                os.close(handle)
        finally:
            with suppress(FileNotFoundError):
                probe.unlink()


@contextmanager
def naming(path: Path, *, temporary: Path | None = None) -> Iterator[None]:
    """Give errors of the file system that name no file, or a temporary one, the name of the file being written."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary), temporary):
            error.filename = str(path)
        raise


def not_whole(path: Path, reason: str) -> Exception:
    """The error of a file that was written in part: of a full file system where it is one, else with the writer's own reason."""
    try:
        require_room(path)
    except OSError as error:
        return error
    return StateError(f"{path} could not be written in full ({reason}); look at the disk and give the same command again.")
