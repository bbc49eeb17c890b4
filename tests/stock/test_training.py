"""`nnUNetv2_train` on stage datasets, with our trainers and nnU-Net's own: --c, --val, --npz and -pretrained_weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stock_models import TWO_STEPS, StockModels, stage_name
from tiny_setup import DATASET, OUR_STUDENT, OUR_TEACHER

from nnunet_ssl.errors import StateError

pytestmark = pytest.mark.slow

TRAINED = [("student", OUR_STUDENT), ("stock", TWO_STEPS)]


def epochs(said: str) -> list[str]:
    """Numbers of the epochs that a training has begun."""
    words = [line.split() for line in said.splitlines()]
    return [line[-1] for line in words if len(line) > 1 and line[-2] == "Epoch"]


@pytest.mark.parametrize(("name", "trainer"), TRAINED)
def test_c_continues_where_a_training_was_killed(stock_models: StockModels, name: str, trainer: str) -> None:
    assert epochs(stock_models.said[f"{name} --c"]) == ["1"]
    checkpoint = torch.load(stock_models.fold(trainer, 0, stage_name(0)) / "checkpoint_final.pth", weights_only=False)
    assert len(checkpoint["logging"]["train_losses"]) == 2
    assert np.isfinite(checkpoint["logging"]["train_losses"]).all()


@pytest.mark.parametrize(("name", "trainer"), TRAINED)
def test_pretrained_weights_are_what_the_training_starts_from(stock_models: StockModels, name: str, trainer: str) -> None:
    """At a learning rate of nothing they are still there at the end; nnU-Net leaves the segmentation layers out."""
    assert "Loading pretrained weights from file" in stock_models.said[f"{name} -pretrained_weights"]
    given = torch.load(stock_models.pretrained, weights_only=False)["network_weights"]
    found = stock_models.weights(trainer, 1, stage_name(1))
    assert found.keys() == given.keys()
    for key, value in found.items():
        assert torch.allclose(value, given[key], atol=1e-5) == (".seg_layers." not in key), key


@pytest.mark.parametrize(
    ("trainer", "fold", "dataset"),
    [(OUR_TEACHER, 0, DATASET), (OUR_STUDENT, 0, stage_name(0)), (TWO_STEPS, 0, stage_name(0)), (OUR_STUDENT, 1, stage_name(1))],
)
def test_npz_holds_the_probabilities_of_validation_cases(stock_models: StockModels, trainer: str, fold: int, dataset: str) -> None:
    folder = stock_models.fold(trainer, fold, dataset) / "validation"
    assert [file.name for file in sorted(folder.glob("*.npz"))] == [f"lab_{fold}.npz"]
    probabilities = np.load(folder / f"lab_{fold}.npz")["probabilities"]
    np.testing.assert_allclose(probabilities.astype(np.float32).sum(0), 1, atol=1e-2)
    assert (folder / f"lab_{fold}.nii.gz").is_file()


@pytest.mark.parametrize("trainer", [OUR_STUDENT, TWO_STEPS])
def test_val_repeats_the_validation_alone(stock_models: StockModels, trainer: str) -> None:
    before = stock_models.weights(trainer, 1, stage_name(1))
    summary = stock_models.fold(trainer, 1, stage_name(1)) / "validation" / "summary.json"
    written, figures = summary.stat().st_mtime_ns, summary.read_text()
    printed = stock_models.train(602, 1, trainer, "--val")
    assert epochs(printed) == []
    assert "Validation complete" in printed
    assert summary.stat().st_mtime_ns > written
    assert summary.read_text() == figures
    after = stock_models.weights(trainer, 1, stage_name(1))
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_stage_of_another_fold_is_refused(stock_models: StockModels) -> None:
    with pytest.raises(StateError, match=r"^Dataset601_Tiny_f0s1 was written for fold 0, not 1: run nnUNetv2_train with fold 0\.$"):
        stock_models.train(601, 1, OUR_STUDENT)
    assert not stock_models.fold(OUR_STUDENT, 1, stage_name(0)).exists()
