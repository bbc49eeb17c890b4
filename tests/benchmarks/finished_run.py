"""What stays of a finished run, in files that outlive the machine: its row of results and circumstances, its table of cases, its logs."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from arms import Arm
from case_metrics import folder_cases, mean_metrics, write_cases
from draw import CEILING, CLASSES, CONFIGURATION, DATASET, Draw, console, dataset_name, plans_name
from job_times import git_commit, total_seconds

from nnunet_ssl.data.files import replacing, write_json

LOGS = ".log.gz"
"""Ending of the logs beside a row."""
CASES = ".cases.csv"
"""Of a row's file name, in place of `.json`: the metrics of every case."""
REPOSITORY = Path(__file__).resolve().parents[2]


def evaluate(draw: Draw, arm: Arm) -> None:
    """Predict the cases of the split with the final checkpoint, and write the arm's logs, its table of cases, and then its row."""
    predictions = draw.root / "predictions" / arm.name
    predict(draw, arm, predictions)
    ready = json.loads((draw.root / "ready.json").read_text())
    cases = folder_cases(predictions, Path(draw.arguments.data) / "labels", cases=ready["evaluated"], classes=CLASSES)
    row = draw.row(arm)
    row.parent.mkdir(parents=True, exist_ok=True)
    write_logs(row.with_suffix(LOGS), draw, arm)
    write_cases(row.with_suffix(CASES), cases)
    write_json(
        row,
        {
            "split": draw.arguments.split,
            # the ceiling learns from every label, whatever the draw whose plans it has
            "labels": len(ready["labelled"]) + len(ready["pool"]) if arm.all_labels else draw.labels,
            "draw": draw.draw,
            "arm": arm.name,
            "network": trained_network(draw, arm),
            "teachers": draw.teachers,
            "teacher": teacher_of(draw, arm),
            **steps(json.loads(draw.overlay(arm.name).read_text())["nnssl"], arm, len(draw.folds)),
            **{name: round(value, 4) for name, value in mean_metrics(cases).items()},
            "cases": len(ready["evaluated"]),
            **seconds(draw, arm),
            "frozen": draw.arguments.frozen or "",
            "commit": git_commit(),
            **circumstances(),
        },
    )


def predict(draw: Draw, arm: Arm, folder: Path) -> None:
    """Stock nnU-Net: final checkpoint, mirrored."""
    trainer = draw.student_trainer(arm) if arm.kind == "run" else draw.teacher_trainer
    number = CEILING if arm.all_labels else DATASET
    folds = draw.folds if arm.kind == "teacher" else ["all"]
    flags = ["-d", number, "-c", CONFIGURATION, "-f", *folds, "-tr", trainer, "-p", plans_name(arm.name), "-device", draw.arguments.device]
    flags += ["-i", draw.root / "test", "-o", folder, "-npp", 1, "-nps", 1]
    line = [console("nnUNetv2_predict"), *map(str, flags)]
    if code := subprocess.run(line, env={**os.environ, **draw.environment}, check=False).returncode:
        sys.exit(code)


def trained_network(draw: Draw, arm: Arm) -> str:
    """What was trained: `TransASPPUNet`, or the class that nnU-Net's plans name."""
    if draw.network == "TransASPPUNet":
        return draw.network
    number = CEILING if arm.all_labels else DATASET
    plans = draw.root / "nnUNet_preprocessed" / dataset_name(number) / f"{plans_name(arm.name)}.json"
    architecture = json.loads(plans.read_text())["configurations"][CONFIGURATION]["architecture"]
    return str(architecture["network_class_name"]).rsplit(".", 1)[-1]


def steps(section: dict[str, Any], arm: Arm, folds: int) -> dict[str, int]:
    """Optimiser steps of an arm, by the settings that it was trained with: its students' and those of all teachers.

    That is what is paid for. A student starts from one of the teachers; from the others come labels, of which `supervised_continued` learns
    nothing.

    Args:
        section: `nnssl` of its overlay.
        arm: which.
        folds: number of teachers.
    """
    length = section["teacher"]["length"]
    of_teachers = length["num_epochs"] * length["iterations_per_epoch"] * (1 if arm.kind == "supervised" else folds)
    of_student = 0
    if arm.kind == "run":
        student = section["student"]
        epochs = student["length"]["num_epochs"] + student.get("fine_tune_epochs", 0)
        of_student = epochs * student["length"]["iterations_per_epoch"]
    return {"steps": of_teachers + of_student, "student_steps": of_student}


def seconds(draw: Draw, arm: Arm) -> dict[str, int]:
    """Time of its own training and of the teachers that it shares with others, over all attempts on this machine."""
    by_job = total_seconds(Path(draw.arguments.out) / "job_times.csv")
    shared = sum(by_job.get(f"{draw.name}.teacher.f{fold}", 0.0) for fold in draw.folds)
    return {
        "seconds": round(by_job.get(f"{draw.name}.{arm.name}", 0.0)),
        "teacher_seconds": 0 if arm.kind == "supervised" else round(shared),
    }


def teacher_of(draw: Draw, arm: Arm) -> str:
    """Fingerprint of the teachers that an arm has started from: of those that were copied for it, whatever stands in their place by now."""
    if arm.kind == "supervised":
        return ""
    if arm.kind == "teacher":
        return fingerprint(draw.teacher_checkpoints())
    return str(json.loads((draw.model(arm.name, draw.teacher_trainer) / "copied.json").read_text())["teacher"])


def fingerprint(checkpoints: list[Path]) -> str:
    """Of the teachers, so that arms of one draw can be seen to share them."""
    digest = hashlib.sha256()
    for path in checkpoints:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def circumstances() -> dict[str, str]:
    """What else a number may depend on."""
    names = (line.split(":", 1)[1].strip() for line in _cpu_info() if line.startswith("model name"))
    packages = {name: version(name) for name in ("torch", "nnunetv2")}
    return {"cpu": next(names, platform.machine()), "python": platform.python_version(), **packages}


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def write_logs(path: Path, draw: Draw, arm: Arm) -> None:
    """Everything that trainings and commands of an arm have said, in one compressed text; the same logs give the same bytes."""
    parts: dict[str, str] = {}
    for file in log_files(draw, arm):
        # a published model has the log of its last stage once more
        parts.setdefault(as_read(file), f"==> {file.relative_to(draw.arguments.out)} <==\n")
    text = "\n".join(name + said for said, name in parts.items())
    folders = {str(draw.arguments.out): "OUT", str(draw.arguments.data): "DATA", str(REPOSITORY): "REPOSITORY", sys.prefix: "VENV"}
    for folder, name in folders.items():
        text = text.replace(folder, name)
    with replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(text.encode(), mtime=0))


def as_read(file: Path) -> str:
    """A log as a terminal shows it in the end: of a progress bar the last state."""
    lines = file.read_bytes().decode(errors="replace").replace("\r\n", "\n").split("\n")
    return "\n".join(line.rsplit("\r", 1)[-1] for line in lines).rstrip() + "\n"


def log_files(draw: Draw, arm: Arm) -> list[Path]:
    """Logs of an arm's commands and trainings, and what a run has written about its stages."""
    queue = Path(draw.arguments.out) / "queue"
    names = [f"{draw.name}.{arm.name}"]
    if arm.kind == "supervised":
        folders = [draw.model(arm.name, draw.teacher_trainer, CEILING if arm.all_labels else DATASET) / "fold_all"]
    elif arm.kind == "teacher":
        names = [f"{draw.name}.teacher.f{fold}" for fold in draw.folds] + [f"{draw.name}.teacher.audit"]
        folders = [path.parent for path in draw.teacher_checkpoints()]
    else:
        folders = [draw.model(arm.name, draw.teacher_trainer) / "fold_all" / "nnssl"]
        folders += sorted((draw.root / "nnUNet_results").glob(f"Dataset*/{draw.student_trainer(arm)}__{plans_name(arm.name)}__*/fold_all"))
    kept = ("training_log_*.txt", "manifest.json", "audit.json", "ranking_*.csv", "logs/*.txt")
    of_models = [file for folder in folders for pattern in kept for file in sorted(folder.glob(pattern))]
    return [file for name in names if (file := queue / f"{name}.log").is_file()] + of_models
