"""nnU-Net's own commands find, validate and predict with our trainers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_ssl.locations import trainers_folder
from nnunet_ssl.training import student, teacher


@pytest.mark.parametrize("name", ["TransASPPTeacherTrainer", "TransASPPStudentTrainer", "SemiSupervisedStudentTrainer"])
def test_found_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_folder()))
    found = recursive_find_trainer_class_by_name(name)
    assert found is getattr(teacher if "Teacher" in name else student, name)
    assert "nnssl_trainers" not in sys.modules


def test_stock_inference_uses_the_average(tiny: Any, short: Callable[..., dict[str, Any]]) -> None:
    trainer = tiny.trainer(student.TransASPPStudentTrainer, settings=short(student={"ema_decay": 0.5}))
    trainer.run_training()
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(Path(trainer.output_folder).parent), (0,))
    weights = predictor.network.state_dict()
    with trainer.average.applied():
        expected = trainer.network.state_dict()
        assert all(torch.equal(weights[name], expected[name]) for name in weights)
    logits = predictor.predict_logits_from_preprocessed_data(torch.zeros(1, 16, 16, 16))
    assert logits.shape == (3, 16, 16, 16)
    assert torch.isfinite(logits).all()


@pytest.mark.slow
def test_validation_command(tiny: Any, short: Callable[..., dict[str, Any]]) -> None:
    settings = short(epochs=1, student={"ema_decay": 0.5})
    trained = tiny.trainer(student.SemiSupervisedStudentTrainer, settings=settings)
    trained.run_training()
    trainer = tiny.trainer(student.SemiSupervisedStudentTrainer, settings=settings)
    maybe_load_checkpoint(trainer, False, True)
    raw = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    trainer.perform_actual_validation()
    folder = Path(trainer.output_folder) / "validation"
    assert sorted(os.listdir(folder)) == ["lab_2.nii.gz", "summary.json"]
    assert all(torch.equal(raw[name], value) for name, value in trainer.network.state_dict().items())


def test_progress_plot_of_a_student(tiny: Any, short: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = tiny.trainer(student.SemiSupervisedStudentTrainer, settings=short(epochs=1))
    del trainer.logger.plot_progress_png
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path: Path(path).touch())
    trainer.run_training()
    assert (Path(trainer.output_folder) / "progress.png").is_file()
    assert all(np.isreal(trainer.logger.get_value("lrs", None)))
