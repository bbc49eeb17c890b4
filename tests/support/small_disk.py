"""A file system of a size that a test chooses, which can be filled and emptied."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class SmallDisk:
    """A mounted tmpfs."""

    root: Path

    @property
    def free(self) -> int:
        found = os.statvfs(self.root)
        return found.f_bavail * found.f_frsize

    @property
    def used(self) -> int:
        found = os.statvfs(self.root)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def leave(self, num_bytes: int) -> None:
        """Shrink to what is used and that much more; or grow again."""
        subprocess.run(["mount", "-o", f"remount,size={self.used + num_bytes}", str(self.root)], check=True)


@contextmanager
def small_disk(root: Path, num_bytes: int) -> Iterator[SmallDisk]:
    """Mount a tmpfs; where that is not permitted the test is skipped, and says so, for only root may.

    The test fails instead where it runs as root on Linux with the right to mount, so that it never passes unseen.
    """
    root.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(root)], capture_output=True, check=False)
    if done.returncode != 0:
        if sys.platform == "linux" and may_mount():
            pytest.fail(f"mounting a tmpfs failed: {done.stderr!r}")
        pytest.skip("no right to mount a file system here (CAP_SYS_ADMIN): run the tests of full disks as root")
    try:
        yield SmallDisk(root)
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)


def may_mount() -> bool:
    """Whether this process has CAP_SYS_ADMIN, by its effective capabilities."""
    status = Path("/proc/self/status").read_text()
    effective = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(effective >> 21 & 1)
