"""Optimiser steps, counted by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.run.from_scratch import from_scratch_method
from nnunet_ssl.run.steps import steps_until

METHOD = MethodConfig().with_settings(
    {
        "teacher.length.num_epochs": 10,
        "teacher.length.iterations_per_epoch": 25,
        "teacher.distillation_epochs": 4,
        "student.length.num_epochs": 10,
        "student.length.iterations_per_epoch": 20,
        "student.fine_tune_epochs": 2,
        "student.distillation_epochs": 5,
        "curriculum.fractions": [0.3, 1.0],
        "curriculum.last_stage_share": 0.7,
    }
)


def run(*teacher_folds: int | str) -> Any:
    stages = [SimpleNamespace(num_epochs=3, is_last=False), SimpleNamespace(num_epochs=7, is_last=True)]
    return SimpleNamespace(method=METHOD, manifest=SimpleNamespace(teacher_folds=list(teacher_folds), stages=stages))


def test_steps() -> None:
    # three epochs of 20 steps, then seven and two of fine-tuning; distillation does not count
    assert [steps_until(run(0), stage) for stage in (0, 1, 2)] == [250, 310, 490]
    # every teacher counts
    assert [steps_until(run(0, 1, 2), stage) for stage in (0, 1, 2)] == [750, 810, 990]


@pytest.mark.parametrize(("iterations", "epochs"), [(25, 20), (49, 10), (7, 70)])
def test_fewest_epochs_that_are_enough(iterations: int, epochs: int) -> None:
    made = from_scratch_method(METHOD.with_settings({"teacher.length.iterations_per_epoch": iterations}), 490)
    assert made.teacher.length.num_epochs == epochs
    assert (epochs - 1) * iterations < 490 <= epochs * iterations


def test_nothing_but_the_length_changes() -> None:
    made, before = from_scratch_method(METHOD, 490).by_path(), METHOD.by_path()
    assert {path: value for path, value in made.items() if value != before[path]} == {
        "teacher.length.num_epochs": 20,
        "teacher.distillation_epochs": 0,
    }
