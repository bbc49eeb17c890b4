"""Evidence, study, ranking and stage datasets have the same bytes in two processes that differ in all that must not matter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_setup import CONFIGURATION, PLANS, Project, digests

PROJECT = Path(__file__).resolve().parents[2]
SOURCE = f"""
import os, sys
import torch
torch.set_num_threads(1)
torch.set_num_threads = lambda number: None

class Listing:
    def __init__(self, entries):
        self.entries = iter(entries)
    def __iter__(self):
        return self
    def __next__(self):
        return next(self.entries)
    def __enter__(self):
        return self
    def __exit__(self, *_):
        pass
    def close(self):
        pass

if sys.argv[1] == "other":  # folders are listed from the last name to the first
    listdir, scandir = os.listdir, os.scandir
    os.listdir = lambda path=".": sorted(listdir(path), reverse=True)
    os.scandir = lambda path=".": Listing(sorted(scandir(path), key=lambda entry: entry.name, reverse=True))

from nnunet_ssl.cli import pseudolabel

run = ["-d", "137", "-c", "{CONFIGURATION}", "-p", "{PLANS}", "-f", "0", "-device", "cpu", "--confidence", "calibrated"]
run += ["--num-samples", "16"]  # two draws for each mirrored view: the second has dropout
if sys.argv[1] == "other":  # evidence is gathered in two parts, the second first
    for part in ("1", "0"):
        assert pseudolabel.main([*run, "--num_parts", "2", "--part_id", part]) == 0
assert pseudolabel.main(run) == 0
"""


def left(root: Path, folder: Path, hash_seed: str, kind: str, results: Path) -> dict[str, str]:
    """Digests of evidence, study, ranking and the stage after a process of its own, in which the absolute paths are always the same."""
    path = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", SOURCE, kind], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    workspaces = [f for f in results.glob("*/*/fold_0/nnssl/**/*") if f.suffix in (".b2nd", ".csv") or f.name == "held_out.json"]
    stage = [f for f in (*root.rglob("*"), *folder.rglob("*")) if f.is_file() and any(p.startswith("Dataset601") for p in f.parts)]
    assert {f.suffix for f in workspaces} == {".b2nd", ".csv", ".json"}
    assert stage
    return digests(sorted([*workspaces, *stage]))


def use_one_window(project: Project) -> None:
    """Let one patch hold an image, in the plans of the set-up and of the teacher, which saves time."""
    for file in (project.plans_file, *project.results.glob("*/*/plans.json")):
        plans = json.loads(file.read_text())
        plans["configurations"][CONFIGURATION]["patch_size"] = [20, 24, 24]
        file.write_text(json.dumps(plans))


@pytest.mark.slow
def test_two_processes(taught_project: Project) -> None:
    use_one_window(taught_project)
    before = taught_project.results.with_name("before")
    shutil.copytree(taught_project.results, before)
    first = left(taught_project.raw, taught_project.preprocessed, "1", "plain", taught_project.results)
    shutil.rmtree(taught_project.results)
    for root in (taught_project.raw, taught_project.preprocessed):
        shutil.rmtree(root / "Dataset601_Tiny_f0s1")
    shutil.copytree(before, taught_project.results)
    second = left(taught_project.raw, taught_project.preprocessed, "2", "other", taught_project.results)
    assert first == second
