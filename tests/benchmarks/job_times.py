"""Rows about attempts at jobs: when, how long, on how many cores, by which code; and a CSV that several processes may append to."""

from __future__ import annotations

import csv
import fcntl
import io
import os
import subprocess
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path


def attempt_row(job: str, *, begun: float, ended: str, commit: str) -> dict[str, object]:
    """One attempt that ends now.

    Args:
        job: its name.
        begun: seconds since the epoch.
        ended: `done`, `failed` or `stopped`.
        commit: of the code when it began.
    """
    return {
        "job": job,
        "start": datetime.fromtimestamp(begun, timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(time.time() - begun, 1),
        "ended": ended,
        "host_cores": os.cpu_count(),
        "lane_cores": len(os.sched_getaffinity(0)),
        "commit": commit,
    }


def append_row(path: Path, row: Mapping[str, object]) -> None:
    """Append a row to a CSV that several processes may append to; the first one writes the header.

    Raises:
        ValueError: if the file has other columns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", newline="") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        header = next(csv.reader(file), None)
        if header is not None and header != list(row):
            raise ValueError(f"{path} has the columns {header}, the row has {list(row)}")
        text = io.StringIO()
        writer = csv.DictWriter(text, list(row), lineterminator="\n")
        if header is None:
            writer.writeheader()
        writer.writerow(row)
        file.write(text.getvalue())


def total_seconds(path: Path) -> dict[str, float]:
    """Time per job over all attempts in a `job_times.csv`, those that were stopped included: what a training has taken in all."""
    totals: dict[str, float] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            totals[row["job"]] = totals.get(row["job"], 0.0) + float(row["seconds"])
    return totals


def git_commit() -> str:
    """Commit that this file stands in, with `-dirty` after it if anything tracked differs; `unknown` outside a repository."""
    line = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(line, cwd=Path(__file__).parent, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
