"""The measurement of a step at full resolution: time and memory of another process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BUSY = "import time; b = bytearray(300_000_000); end = time.process_time() + 0.5\nwhile time.process_time() < end: pass"


def measured(program: str) -> subprocess.CompletedProcess[str]:
    """`measure` in a process that is as small as the script's own: a child's peak is at least what it was forked from."""
    code = f"import json, sys; from full_resolution import measure; print(json.dumps(measure([sys.executable, '-c', {program!r}])))"
    here = Path(__file__).parent
    return subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=False, timeout=120)


def test_a_step_is_measured_in_its_own_process() -> None:
    idle, busy = (json.loads(measured(program).stdout) for program in ("pass", BUSY))
    assert idle["peak MB"] < 100
    assert busy["peak MB"] > idle["peak MB"] + 250  # 300 MB are 286 MiB
    assert busy["processor seconds"] >= 0.5 > idle["processor seconds"]
    assert busy["seconds"] >= 0.5


def test_a_step_that_fails_ends_the_measurement() -> None:
    done = measured("raise SystemExit(3)")
    assert done.returncode == 1
    assert "failed with exit code 3" in done.stderr
