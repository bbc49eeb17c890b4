"""The script for SLURM that the page on many machines shows, submitted to a scheduler that only takes notes, then done job by job."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny_setup import PLANS, Project, pretend_training

from nnunet_ssl.locations import ModelLocation

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "many-machines.md"
SBATCH = """import json, sys
notes = open({notes!r}, "a+")
notes.seek(0)
number = 1000 + len(notes.readlines())
notes.write(json.dumps(sys.argv[1:]) + "\\n")
print(number)
"""
"""Gives each job a number and notes what was asked for."""


@dataclass(frozen=True)
class Job:
    """One job as it was submitted."""

    number: int
    after: list[int]
    tasks: list[int] | None
    """Task ids of an array."""
    command: str

    def commands(self) -> list[list[str]]:
        """The words of every task's command."""
        tasks = [None] if self.tasks is None else self.tasks
        assert ("$SLURM_ARRAY_TASK_ID" in self.command) == (self.tasks is not None)
        return [shlex.split(self.command.replace("$SLURM_ARRAY_TASK_ID", str(task))) for task in tasks]


def read_job(number: int, words: list[str]) -> Job:
    options = dict(word.removeprefix("--").partition("=")[::2] for word in words)
    assert set(options) <= {"parsable", "cpus-per-task", "gres", "array", "dependency", "wrap"}
    kind, _, after = options.get("dependency", "afterok:").partition(":")
    assert kind in ("afterok", "afterany")
    first, _, last = options.get("array", "").partition("-")
    tasks = list(range(int(first), int(last) + 1)) if last else None
    return Job(number, [int(after)] if after else [], tasks, options["wrap"])


def submit(script: str, folder: Path) -> list[Job]:
    """Run the script beside a scheduler of ours; returns the jobs in the order in which they were submitted."""
    stub, notes = folder / "bin" / "sbatch", folder / "notes"
    stub.parent.mkdir()
    scheduler = folder / "scheduler.py"
    scheduler.write_text(SBATCH.format(notes=str(notes)))
    # the path of an interpreter may hold spaces, which a first line `#!` cannot have
    stub.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(scheduler))} "$@"\n')
    stub.chmod(0o755)
    environment = {**os.environ, "PATH": f"{stub.parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", script], env=environment, check=True, timeout=120)
    return [read_job(1000 + i, json.loads(line)) for i, line in enumerate(notes.read_text().splitlines())]


def on_this_machine(script: str, project: Project) -> str:
    """The script for the tiny set-up, with two stages and two parts."""
    changes = {
        r'^setup="(.*)"$': rf'setup="\1 -p {PLANS}"',
        r'^run="(.*)"$': r'run="\1 -device cpu --num-samples 2"',
        r"^images=.*$": f"images={shlex.quote(str(project.unlabelled))}",
        r'^stages=".*"$': 'stages="1 2"',
        r"^last_part=.*$": "last_part=1",
        r"-np 8": "-np 1",
    }
    for pattern, text in changes.items():
        script, count = re.subn(pattern, lambda found, text=text: found.expand(text.replace("\\$", "$")), script, flags=re.MULTILINE)
        assert count >= 1, pattern
    return script


def run(words: list[str]) -> int:
    return int(importlib.import_module(f"nnunet_ssl.cli.{words[0].removeprefix('nnssl_')}").main(words[1:]))


def made(project: Project) -> dict[str, Any]:
    """What a run has decided and written: evidence, rankings, label images, and what the manifest says of the stages."""
    found: dict[str, Any] = {}
    patterns = ("*/*/*/nnssl/evidence/*/*.b2nd", "*/*/*/nnssl/ranking_*.csv")
    files = [*(f for pattern in patterns for f in project.results.glob(pattern)), *project.raw.glob("Dataset60*/*/*.nii.gz")]
    for path in files:
        found[path.name + path.parent.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (manifest,) = project.results.glob("*/*/*/nnssl/manifest.json")
    content = json.loads(manifest.read_text())
    found["stages"] = [{name: value for name, value in stage.items() if name != "seconds"} for stage in content["stages"]]
    found["published"] = content["published"]
    return found


@pytest.mark.thorough
def test_script_does_what_one_command_does(fresh_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(model: ModelLocation, fold: int | str, *, device: str, log: Path, epochs: int | None) -> None:
        pretend_training(model, fold, seed=len(model.dataset) + int(model.dataset[7:10]))

    monkeypatch.setattr("nnunet_ssl.run.pipeline.train", pretend)
    pristine = tmp_path / "pristine"
    for name in ("raw", "preprocessed", "results"):
        shutil.copytree(getattr(fresh_project, name), pristine / name)
    (script,) = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    flags = ["-d", "137", "-c", "3d_fullres", "-p", PLANS, "-f", "0", "-device", "cpu", "--num-samples", "2", "-np", "1"]
    assert run(["nnssl_run", *flags, "-u", str(fresh_project.unlabelled)]) == 0
    of_one_command = made(fresh_project)
    assert len(of_one_command["stages"]) == 2
    assert of_one_command["published"]
    for name in ("raw", "preprocessed", "results"):
        shutil.rmtree(getattr(fresh_project, name))
        shutil.copytree(pristine / name, getattr(fresh_project, name))
    jobs = submit(on_this_machine(script, fresh_project), tmp_path)
    assert [job.command.split("--only ")[-1] for job in jobs if "--only" in job.command] == [
        *("pool", "teacher", "stage-1", "student-1", "stage-2", "student-2", "publish")
    ]
    assert [job.number for job in jobs if job.tasks == [0, 1]] == [1000, 1003, 1006]
    for job in jobs:
        assert job.after == ([job.number - 1] if job.number > 1000 else [])  # one after another, from the first to the last
        for words in job.commands():
            assert run(words) == 0, words
    assert made(fresh_project) == of_one_command
    for job in jobs:  # submitted again: everything is done
        for words in job.commands():
            assert run(words) == 0, words
    assert made(fresh_project) == of_one_command
