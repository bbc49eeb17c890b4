"""Requests of `nnssl_run` on the tiny set-up, with trainings that take no time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_setup import OUR_TEACHER, Project, pretend_training

from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.run import pipeline as module
from nnunet_ssl.run.pipeline import pipeline
from nnunet_ssl.run.run_request import RunRequest


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int | None, str]]:
    """Every training that was asked for: dataset, epochs, name of the log."""
    asked: list[tuple[str, int | None, str]] = []

    def pretend(model: ModelLocation, fold: int | str, *, device: str, log: Path, epochs: int | None, npz: bool = False) -> None:
        asked.append((model.dataset, epochs, log.name))
        pretend_training(model, fold, seed=len(asked))

    monkeypatch.setattr(module, "train", pretend)
    return asked


def run_request(project: Project, **changes: Any) -> RunRequest:
    setup = project.setup()
    settings = {"evidence.num_samples": 2, **changes.pop("settings", {})}
    return RunRequest(
        **{
            "setup": setup,
            "fold": 0,
            "unlabelled": (project.unlabelled,),
            "teacher_trainer": OUR_TEACHER,
            "teacher_folds": None,
            "student_trainer": None,
            "method": setup.method.with_settings(settings),
            "device": "cpu",
            "skip_bad": False,
            "num_processes": 1,
            "first_id": None,
            **changes,
        }
    )


def done(asked: RunRequest) -> list[bool]:
    return [step.is_done() for step in pipeline(asked)]
