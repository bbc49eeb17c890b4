"""The freeze: what is evaluated on test cases was trained by code and settings that a commit fixed before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nnunet_ssl

REPOSITORY = Path(__file__).resolve().parents[2]
FROZEN = (
    "nnunet_ssl",
    "trainers",
    "plans",
    *(
        f"tests/benchmarks/{name}"
        for name in ("trainers", "arms.py", "benchmark.py", "draw.py", "draw_jobs.py", "hippocampus.py", "job_queue.py", "overlay.json")
    ),
)
"""What a training depends on; its evaluation, the summary and the pages may go on changing."""


def require_frozen(commit: str, repository: Path = REPOSITORY) -> None:
    """Stop unless everything that a training depends on is as in a commit, and is what runs here.

    Args:
        commit: its full hash.
        repository: work tree that the commit is of.

    Raises:
        SystemExit: with what differs, or if the name is no full hash of a commit that came before.
    """
    if _git(repository, "rev-parse", "--verify", f"{commit}^{{commit}}") != [commit]:
        sys.exit(f"--frozen {commit}: give the full hash of the commit; any other name may come to mean another one")
    if commit not in _git(repository, "rev-list", "HEAD"):
        sys.exit(f"--frozen {commit[:12]} is not among the commits that led to the one that is checked out")
    imported = Path(nnunet_ssl.__file__).resolve()
    if not imported.is_relative_to(repository):
        sys.exit(f"the benchmark runs {imported.parent}, which is not the code in {repository}; install that one")
    changed = _git(repository, "diff", "--name-only", commit, "--", *FROZEN)
    untracked = _git(repository, "ls-files", "--others", "--exclude-standard", "--", *FROZEN)
    if found := [*changed, *untracked]:
        sys.exit(f"not as in the frozen commit {commit[:12]}: {', '.join(found)}; check it out, or freeze anew before any test evaluation")


def _git(repository: Path, *command: str) -> list[str]:
    done = subprocess.run(["git", *command], cwd=repository, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"git {command[0]} failed in {repository}: {done.stderr.strip()}")
    return done.stdout.split("\n")[:-1]
