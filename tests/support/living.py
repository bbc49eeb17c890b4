"""Whether a process lives."""

from __future__ import annotations

from pathlib import Path


def lives(pid: int) -> bool:
    """Whether a process is there and not merely waiting for its parent to look (Linux)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
