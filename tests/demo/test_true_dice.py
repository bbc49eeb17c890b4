"""The demo's table of true Dice."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_ssl.demo.true_dice import EvaluatedModel, format_true_dice, write_true_dice
from nnunet_ssl.report.validation import ClassFigures, Validation


def evaluated(name: str, steps: int, rim: float, core: float | None) -> EvaluatedModel:
    mean = rim if core is None else (rim + core) / 2
    classes = {"rim": ClassFigures(rim, 0.1), "core": ClassFigures(core, 0.1)}
    return EvaluatedModel(name, steps, Validation(8, ClassFigures(mean, 0.1), classes))


@pytest.fixture
def models() -> list[EvaluatedModel]:
    return [evaluated("teacher", 250, 0.5, 0.25), evaluated("student 1", 325, 0.75, None), evaluated("supervised control", 500, 0.625, 0.5)]


def test_csv(models: list[EvaluatedModel], tmp_path: Path) -> None:
    write_true_dice(tmp_path / "true_dice.csv", models)
    assert (tmp_path / "true_dice.csv").read_text() == (
        "model,steps,dice_rim,dice_core,dice_mean,cases\n"
        "teacher,250,0.500000,0.250000,0.375000,8\n"
        "student 1,325,0.750000,,0.750000,8\n"
        "supervised control,500,0.625000,0.500000,0.562500,8\n"
    )


def test_text(models: list[EvaluatedModel]) -> None:
    assert format_true_dice(models).splitlines() == [
        "model               steps     rim    core    mean  to control",
        "teacher               250  0.5000  0.2500  0.3750     -0.1875",
        "student 1             325  0.7500       -  0.7500     +0.1875",
        "supervised control    500  0.6250  0.5000  0.5625           -",
    ]
