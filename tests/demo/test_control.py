"""The supervised control: steps counted by hand, and plans with nothing but another length."""

from __future__ import annotations

import json

import pytest

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.demo.control import control_epochs, control_overlay, steps_until, student_steps
from nnunet_ssl.locations import presets_folder

METHOD = MethodConfig().with_settings(
    {
        "teacher.length.num_epochs": 10,
        "teacher.length.iterations_per_epoch": 25,
        "student.length.num_epochs": 10,
        "student.length.iterations_per_epoch": 20,
        "student.fine_tune_epochs": 2,
        "student.distillation_epochs": 5,
        "curriculum.fractions": [0.3, 1.0],
        "curriculum.last_stage_share": 0.7,
    }
)


def test_steps() -> None:
    # three epochs of 20 steps, then seven and two of fine-tuning; distillation does not count
    assert [student_steps(METHOD, stage) for stage in (1, 2)] == [60, 180]
    assert [steps_until(METHOD, stage) for stage in (0, 1, 2)] == [250, 310, 490]


@pytest.mark.parametrize(("iterations", "epochs"), [(25, 20), (49, 15), (7, 45)])
def test_epochs_are_enough_for_all_steps(iterations: int, epochs: int) -> None:
    method = METHOD.with_settings({"teacher.length.iterations_per_epoch": iterations})
    total = 10 * iterations + 240
    assert control_epochs(method) == epochs
    assert (epochs - 1) * iterations < total <= epochs * iterations


def test_overlay_changes_the_length_alone() -> None:
    overlay = json.loads((presets_folder() / "demo.json").read_text())
    made = control_overlay(overlay, METHOD)
    assert {key: made[key] for key in ("network", "features", "batch_size")} == {
        key: overlay[key] for key in ("network", "features", "batch_size")
    }
    control, wanted = (
        MethodConfig.from_dict(made["nnssl"]),
        METHOD.with_settings({"teacher.length.num_epochs": 20, "teacher.distillation_epochs": 0}),
    )
    assert control.teacher == wanted.teacher


def test_the_demos_own_lengths_give_a_control() -> None:
    overlay = json.loads((presets_folder() / "demo.json").read_text())
    method = MethodConfig.from_dict(overlay["nnssl"])
    teacher, student = method.teacher.length, method.student.length
    total = teacher.num_epochs * teacher.iterations_per_epoch + student.num_epochs * student.iterations_per_epoch
    assert control_epochs(method) * teacher.iterations_per_epoch >= total
