"""Which files are opened by any process, by any means: what the kernel reports."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

_OPENED = 0x20  # IN_OPEN


class watching:  # noqa: N801 (a context manager, used like a function)
    """Which of some files were opened by any process while the block runs.

    Tests are left out on systems without inotify. Where it is there and does not watch, they fail: a proof that looked at nothing is none.
    """

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.handle = -1
        self.watches: dict[int, Path] = {}

    def __enter__(self) -> Callable[[], set[Path]]:
        if not sys.platform.startswith("linux"):
            pytest.skip("files are watched by inotify, which this system has not")
        library = ctypes.CDLL(None, use_errno=True)
        self.handle = library.inotify_init1(os.O_NONBLOCK)
        self.watches = {library.inotify_add_watch(self.handle, os.fsencode(f), _OPENED): f for f in self.files}
        if self.handle < 0 or min(self.watches, default=-1) < 0:
            raise OSError(
                ctypes.get_errno(), f"inotify does not watch all of {len(self.files)} files; is fs.inotify.max_user_watches used up?"
            )
        return self.opened

    def __exit__(self, *_: object) -> None:
        if self.handle >= 0:
            os.close(self.handle)

    def opened(self) -> set[Path]:
        found = set()
        while True:
            try:
                events = os.read(self.handle, 1 << 16)
            except BlockingIOError:
                return found
            place = 0
            while place < len(events):
                watch, _, _, length = struct.unpack_from("iIII", events, place)
                place += 16 + length
                found.add(self.watches[watch])
