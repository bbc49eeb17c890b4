"""What students of finished runs learnt, stage by stage, from their logs: loss terms at both ends of a stage, confident voxels, new labels.

python tests/benchmarks/student_logs.py --rows tests/benchmarks/results/test --labels 4 --arms supervised_continued ours
"""

from __future__ import annotations

import argparse
import gzip
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from arms import ARMS
from finished_run import LOGS
from runs_table import rows_by_path, rows_parser

TERMS = ("loss_supervised", "loss_high", "loss_low")
NUM_EPOCHS = 3
"""At each end of a stage, over which a term is averaged: it is the mean over an epoch's steps, and differs from one to the next."""


@dataclass(frozen=True)
class StageLog:
    """What the log of one run says of one stage."""

    terms: dict[str, tuple[float, float]]
    """Mean over the first and the last epochs, of the terms that are there; without the pool there is none but the first."""
    confident: float | None
    """Share of confident voxels among the foreground of its pseudo-labels, in per cent; None without a pool."""
    changed: float | None
    """Foreground voxels whose label differs from the stage before, in per cent; None in the first stage."""


def main() -> int:
    """Print both ends of every stage in the mean of the draws."""
    arguments = parse()
    for arm in arguments.arms:
        runs = logs_of(arguments.rows, arm, split=arguments.split, labels=arguments.labels, network=arguments.network)
        for number, stages in enumerate(zip(*runs.values(), strict=True), start=1):
            print(f"{arm}, stage {number}, draws {', '.join(map(str, runs))}: {describe(stages)}")
    return 0


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, or words of one."""
    parser = rows_parser(__doc__, beside="logs")
    parser.add_argument("--arms", nargs="+", default=["supervised_continued", "ours"], choices=list(ARMS), help="with students")
    return parser.parse_args(words)


def logs_of(rows: Path, arm: str, *, split: str, labels: int, network: str) -> dict[int, list[StageLog]]:
    """The stages of an arm's runs, by draw.

    Raises:
        ValueError: if there is no such run, one has no stage in its log, or as in `rows_by_path`.
    """
    found = {
        row["draw"]: read_stages(gzip.decompress(path.with_suffix(LOGS).read_bytes()).decode())
        for path, row in rows_by_path(rows, split, network=network).items()
        if (row["arm"], row["labels"]) == (arm, labels)
    }
    if not found or not all(found.values()):
        raise ValueError(f"no run of '{arm}' with {labels} labels and stages in {rows}")
    return dict(sorted(found.items()))


def read_stages(text: str) -> list[StageLog]:
    """The stages of a run's log, in order."""
    files = dict(re.findall(r"^==> \S*?(queue/|/nnssl/logs/\S+)\S* <==\n(.*?)(?=^==> |\Z)", text, flags=re.DOTALL | re.MULTILINE))
    command = files.get("queue/", "")
    changed = [float(share) for share in re.findall(r"^labels against stage \d+: .*; all ([\d.]+) %$", command, flags=re.MULTILINE)]
    confident = dict(re.findall(r"^ +(\d+) +[\d.]+ +\d+ +\S+ +([\d.]+)% ", command, flags=re.MULTILINE))
    stages = []
    while (log := files.get(f"/nnssl/logs/student_{len(stages) + 1}.txt")) is not None:
        number = len(stages) + 1
        share, new = confident.get(str(number)), changed[number - 2] if 2 <= number <= len(changed) + 1 else None
        stages.append(StageLog(_terms(log), None if share is None else float(share), new))
    return stages


def _terms(log: str) -> dict[str, tuple[float, float]]:
    found = {}
    for term in TERMS:
        if values := [float(value) for value in re.findall(rf": {term} (\S+) *$", log, flags=re.MULTILINE)]:
            found[term] = (float(np.mean(values[:NUM_EPOCHS])), float(np.mean(values[-NUM_EPOCHS:])))
    return found


def describe(stages: Sequence[StageLog]) -> str:
    """One stage in the mean of the draws."""
    said = []
    for term in stages[0].terms:
        first, last = np.mean([stage.terms[term] for stage in stages], axis=0)
        said.append(f"{term} {first:.3f} to {last:.3f}")
    for name, values in (("confident", [s.confident for s in stages]), ("changed", [s.changed for s in stages])):
        if known := [value for value in values if value is not None]:
            said.append(f"{name} {np.mean(known):.1f} % ({min(known):.1f} to {max(known):.1f})")
    return ", ".join(said)


if __name__ == "__main__":
    sys.exit(main())
