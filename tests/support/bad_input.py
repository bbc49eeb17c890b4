"""One bad input: how it comes about, which command meets it, and what that command has to say."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_setup import CONFIGURATION, DATASET, PLANS, Project

SET_UP = ("-d", "137", "-c", CONFIGURATION, "-p", PLANS)


@dataclass(frozen=True, kw_only=True)
class BadInput:
    """A row of the table in docs/reference/bad-input.md."""

    what: str
    """What is bad, as the page says it; also the name of the test."""
    make: Callable[[Project], Path | str]
    """Break a set-up; gives the file, or what else has to be named."""
    says: str
    """A part of the message; `<...>` stands for anything."""
    command: str = "nnssl_prepare"
    flags: tuple[str, ...] = ()
    """Behind the usual ones of the command; `{root}` is the folder of the set-up."""
    is_skipped: bool = False
    """Whether `--skip-bad` leaves the case out and lists it."""


def command_line(bad: BadInput, project: Project) -> list[str]:
    """The arguments that a row is tried with."""
    root = project.raw.parent
    usual: dict[str, tuple[str, ...]] = {
        "nnssl_prepare": (*SET_UP, "-u", str(project.unlabelled), "-np", "1"),
        "nnssl_pseudolabel": (*SET_UP, "-f", "0", "-device", "cpu"),
        "nnssl_run": (*SET_UP, "-f", "0", "-device", "cpu"),
        "nnssl_report": (*SET_UP, "-f", "0"),
        "nnssl_predict": (
            *SET_UP,
            "-f",
            "0",
            "-tr",
            "TransASPPTeacherTrainer",
            "-device",
            "cpu",
            "-i",
            str(root / "new"),
            "-o",
            str(root / "out"),
        ),
        "nnssl_plan": ("-d", "137", "-gpu_memory_target", "8"),
    }
    return [*usual[bad.command], *(flag.replace("{root}", str(root)) for flag in bad.flags)]


def text(path: Callable[[Project], Path], content: str | bytes) -> Callable[[Project], Path]:
    """Put other content into a file."""

    def make(project: Project) -> Path:
        file = path(project)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    return make


def edited(path: Callable[[Project], Path], change: Callable[[Any], Any]) -> Callable[[Project], Path]:
    """Edit a JSON file; `change` works in place, or returns other content."""

    def make(project: Project) -> Path:
        file = path(project)
        content = json.loads(file.read_text())
        changed = change(content)
        file.write_text(json.dumps(content if changed is None else changed))
        return file

    return make


def plans_file(project: Project) -> Path:
    return project.plans_file


def dataset_json(project: Project) -> Path:
    return project.preprocessed / DATASET / "dataset.json"


def splits_file(project: Project) -> Path:
    return project.preprocessed / DATASET / "splits_final.json"


def without(*keys: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in keys:
            del content[key]

    return change
