"""Runs commands at the same time, each in a forked process with a process group of its own, some of which kill themselves.

    python several_processes.py '[[{"command": "prepare", "arguments": [...], "point": "none"}, ...], ...]'

The jobs of a round run at once, the rounds one after another. `point` is where a process dies (see `killed_run.arm`). After each round a
line of JSON holds the exit codes, negative for a signal.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from killed_run import arm

CODES = "exit codes: "


def run_rounds(*rounds: Sequence[dict[str, Any]]) -> tuple[list[list[int]], str]:
    """Run rounds of jobs from a process without threads, from which they can be forked; returns their exit codes and all output."""
    script = [sys.executable, str(Path(__file__)), json.dumps(rounds)]
    done = subprocess.run(script, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout
    return [json.loads(line.removeprefix(CODES)) for line in done.stdout.splitlines() if line.startswith(CODES)], done.stdout


def start(job: dict[str, Any], gate: int) -> int:
    """Fork a process for a job, which begins once there is a byte for it in the pipe `gate`; returns its number."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    code = 70
    try:
        arm(job.get("point", "none"))
        main = importlib.import_module(f"nnunet_ssl.cli.{job['command']}").main
        os.read(gate, 1)  # one byte for every job
        code = main(job["arguments"])
    finally:
        sys.stdout.flush()
        os._exit(code)


def main() -> None:
    """Round after round, start every job and wait for all."""
    import torch

    torch.set_num_threads(1)
    torch.set_num_threads = lambda number: None
    import nnunet_ssl.cli.pseudolabel
    import nnunet_ssl.data.pool
    import nnunet_ssl.pseudolabel.gather_part
    import nnunet_ssl.pseudolabel.start_run  # noqa: F401

    gate, key = os.pipe()
    for jobs in json.loads(sys.argv[1]):
        children = [start(job, gate) for job in jobs]
        os.write(key, b"." * len(children))
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(CODES + json.dumps(codes), flush=True)


if __name__ == "__main__":
    main()
