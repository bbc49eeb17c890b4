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
from tiny_setup import PLANS, Project, folders, pretend_training

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
    """The script for the tiny set-up, with two folds, two stages and two parts."""
    changes = {
        r'^setup="(.*)"$': rf'setup="\1 -p {PLANS}"',
        r'^folds="0"$': 'folds="0 1"',
        r'^settings=""$': 'settings="-device cpu --num-samples 2"',
        r'^stages=".*"$': 'stages="1 2"',
        r"^images=.*$": f"images={shlex.quote(str(project.unlabelled))}",
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
    """What runs have decided and written: evidence, rankings, label images, and what the manifests say of the stages."""
    found: dict[str, Any] = {}
    patterns = ("*/*/*/nnssl/evidence/*/*.b2nd", "*/*/*/nnssl/ranking_*.csv")
    files = [*(f for pattern in patterns for f in project.results.glob(pattern)), *project.raw.glob("Dataset60*/*/*.nii.gz")]
    for path in files:
        found[str(path.relative_to(project.raw.parent))] = hashlib.sha256(path.read_bytes()).hexdigest()
    for fold in ("0", "1"):
        (manifest,) = project.results.glob(f"*/*/fold_{fold}/nnssl/manifest.json")
        content = json.loads(manifest.read_text())
        stages = [{name: value for name, value in stage.items() if name != "seconds"} for stage in content["stages"]]
        found |= {f"stages of fold {fold}": stages, f"published of fold {fold}": content["published"]}
    return found


def shown_script() -> str:
    """The script as the page shows it."""
    (script,) = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return str(script)


def steps(fold: int) -> list[str]:
    return [f"-f {fold} {step}" for step in ("teacher", "stage-1", "student-1", "stage-2", "student-2", "publish")]


def named(job: Job) -> str:
    """Fold and step of a job of `nnssl_run`."""
    words = shlex.split(job.command)
    return f"-f {words[words.index('-f') + 1]} {words[words.index('--only') + 1]}"


def test_every_fold_waits_for_the_pool_and_for_nothing_of_another_fold(tmp_path: Path) -> None:
    jobs = submit(on_this_machine(shown_script(), folders(tmp_path / "project")), tmp_path)
    parts, pool, *of_folds = jobs
    assert (parts.tasks, parts.after, pool.tasks, pool.after) == ([0, 1], [], None, [parts.number])
    assert [job.command.split()[0] for job in (parts, pool)] == ["nnssl_prepare", "nnssl_prepare"]
    assert [named(job) for job in of_folds if "--only" in job.command] == [*steps(0), *steps(1)]
    first, second = of_folds[: len(of_folds) // 2], of_folds[len(of_folds) // 2 :]
    for jobs_of_fold, fold in ((first, 0), (second, 1)):
        assert all(f" -f {fold} " in job.command for job in jobs_of_fold)
        assert [job.after for job in jobs_of_fold] == [[pool.number], *([job.number] for job in jobs_of_fold[:-1])]
        assert [job.command.split()[0] for job in jobs_of_fold if job.tasks == [0, 1]] == ["nnssl_pseudolabel"] * 2


@pytest.mark.thorough
def test_script_does_what_one_command_does(fresh_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(model: ModelLocation, fold: int | str, *, device: str, log: Path, epochs: int | None, npz: bool = False) -> None:
        pretend_training(model, fold, seed=len(model.dataset) + int(model.dataset[7:10]))

    monkeypatch.setattr("nnunet_ssl.run.pipeline.train", pretend)
    pristine = tmp_path / "pristine"
    for name in ("raw", "preprocessed", "results"):
        shutil.copytree(getattr(fresh_project, name), pristine / name)
    flags = ["-d", "137", "-c", "3d_fullres", "-p", PLANS, "-device", "cpu", "--num-samples", "2", "-np", "1"]
    for fold in ("0", "1"):
        assert run(["nnssl_run", *flags, "-f", fold, "-u", str(fresh_project.unlabelled)]) == 0
    of_one_command = made(fresh_project)
    assert [len(of_one_command[f"stages of fold {fold}"]) for fold in (0, 1)] == [2, 2]
    assert of_one_command["published of fold 0"]
    assert of_one_command["published of fold 1"]
    for name in ("raw", "preprocessed", "results"):
        shutil.rmtree(getattr(fresh_project, name))
        shutil.copytree(pristine / name, getattr(fresh_project, name))
    jobs = submit(on_this_machine(shown_script(), fresh_project), tmp_path)
    for job in jobs:
        for words in job.commands():
            assert run(words) == 0, words
    assert made(fresh_project) == of_one_command
    for job in jobs:  # submitted again: everything is done
        for words in job.commands():
            assert run(words) == 0, words
    assert made(fresh_project) == of_one_command
