"""`nnssl_run` killed at seeded moments ends as an undisturbed run does: the short form of `make kill-check`, and how it draws."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from kill_check import draw, in_runs, kind_of

PROJECT = Path(__file__).resolve().parents[2]
MOMENTS = [("pool", "open", n) for n in range(1, 5)] + [("write 1", "link", n) for n in range(1, 40)] + [("write 2", "rename", 1)]


@pytest.mark.slow
def test_a_few_kills(tmp_path: Path) -> None:
    script = PROJECT / "tests" / "support" / "kill_check.py"
    path = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-W", "ignore", str(script), str(tmp_path / "check"), "--kills", "4", "--timed", "0", "--seed", "3"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=560, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    *runs, summary = map(json.loads, done.stdout.splitlines())
    assert summary["kills"] == sum(len(run["kills"]) for run in runs) == 4
    assert len(summary["kinds"]) == 4


def test_moments_are_spread_over_the_kinds_of_steps() -> None:
    drawn = draw(MOMENTS, 8, random.Random(0))
    assert sorted(kind_of(m.step) for m in drawn) == ["pool"] * 4 + ["write"] * 4
    assert drawn == draw(MOMENTS, 8, random.Random(0))
    assert all((m.step, m.event, m.number) in MOMENTS for m in drawn)


def test_one_run_meets_its_moments_in_later_and_later_steps() -> None:
    drawn = draw(MOMENTS, 8, random.Random(1))
    runs = in_runs(drawn, MOMENTS)
    assert sorted(m.step for run in runs for m in run) == sorted(m.step for m in drawn)
    order = ["pool", "write 1", "write 2"]
    for run in runs:
        places = [order.index(m.step) for m in run]
        assert places == sorted(set(places))
