"""What passes through the network in a step of the two mean teachers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from nnunet_ssl.training.peers.mean_teacher import MeanTeacherTrainer
from nnunet_ssl.training.peers.peer_loss import pool_samples
from nnunet_ssl.training.peers.uncertainty_aware_mean_teacher import NUM_PASSES, UAMTTrainer

Settings = Callable[..., dict[str, Any]]


def prepared(tiny: Any, short: Settings, kind: Any, *, images: list[torch.Tensor], weights: list[torch.Tensor]) -> Any:
    """A trainer whose network records the images and its first weights at every pass, and whose average differs from its weights."""
    trainer = tiny.trainer(kind, settings=short())
    trainer.initialize()
    trainer.network.train()
    with torch.no_grad():
        for parameter in trainer.network.parameters():
            parameter += 0.01

    def record(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        images.append(inputs[0].clone())
        weights.append(next(module.parameters()).detach().clone())

    trainer.network.register_forward_pre_hook(record)
    return trainer


@pytest.mark.parametrize(("kind", "passes"), [(MeanTeacherTrainer, 1), (UAMTTrainer, 1 + NUM_PASSES)])
def test_teacher_and_student_see_the_pool_under_different_noise(tiny: Any, short: Settings, kind: Any, passes: int) -> None:
    images: list[torch.Tensor] = []
    weights: list[torch.Tensor] = []
    trainer = prepared(tiny, short, kind, images=images, weights=weights)
    batch = next(trainer.get_dataloaders()[0])
    original, from_pool = batch["data"].clone(), pool_samples(batch["target"])
    assert from_pool.sum() == 1
    averaged = next(iter(trainer.average._averaged.values())).clone()
    trained = next(trainer.network.parameters()).detach().clone()
    trainer.train_step(batch)

    *of_teacher, of_student = images
    assert len(of_teacher) == passes
    torch.testing.assert_close(of_student[~from_pool], original[~from_pool], rtol=0, atol=0)
    noises = [view - original[from_pool] for view in (*of_teacher, of_student[from_pool])]
    assert all(0.15 < noise.abs().max() <= 0.2001 for noise in noises)
    assert all(not torch.allclose(a, b) for i, a in enumerate(noises) for b in noises[:i])
    assert all(torch.equal(w, averaged) for w in weights[:-1])
    assert torch.equal(weights[-1], trained)
    assert torch.equal(batch["data"], original)


def test_teacher_is_asked_in_the_semi_supervised_phase_alone(tiny: Any, short: Settings) -> None:
    images: list[torch.Tensor] = []
    tiny.write_sidecar(num_stages=1, num_epochs=1)
    trainer = prepared(tiny, lambda: short(student={"fine_tune_epochs": 1}), MeanTeacherTrainer, images=images, weights=[])
    # a batch that a worker process had ready when the phase ended
    batch = next(trainer.get_dataloaders()[0])
    for epoch, passes in ((0, 2), (1, 1)):
        images.clear()
        trainer.current_epoch = epoch
        trainer.train_step(batch)
        assert len(images) == passes
        assert (trainer.loss.reference is None) == (epoch == 1)


def test_rise_of_the_weight(tiny: Any, short: Settings) -> None:
    tiny.write_sidecar(num_epochs=2, stage=2)
    trainer = tiny.trainer(MeanTeacherTrainer, settings=short(iterations=5))
    ramps = []
    for trainer._step in (0, 5, 10):
        ramps.append(trainer._ramp())
    assert ramps == pytest.approx([math.exp(-5), math.exp(-5 / 4), 1])


def test_entropy_is_that_of_the_mean_prediction(tiny: Any, short: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = tiny.trainer(UAMTTrainer, settings=short())
    trainer.initialize()
    # the first pass is the reference, four of the others say one class for certain, four another
    passes = iter([0.5] + [1.0] * 4 + [0.0] * 4)

    def predict(images: torch.Tensor) -> torch.Tensor:
        share = next(passes)
        return torch.tensor([share, 1 - share, 0.0]).view(1, 3, 1, 1, 1).expand(1, 3, *images.shape[2:])

    monkeypatch.setattr(trainer, "_teacher_probabilities", predict)
    trainer._teach(torch.zeros(1, 1, 2, 2, 2))
    assert trainer.loss.entropy.shape == (1, 1, 2, 2, 2)
    torch.testing.assert_close(trainer.loss.entropy, torch.full((1, 1, 2, 2, 2), math.log(2)))
    assert (trainer.loss.reference[:, :2] == 0.5).all()
