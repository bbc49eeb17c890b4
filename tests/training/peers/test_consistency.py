from __future__ import annotations

import math

import pytest
import torch

from nnunet_ssl.training.peers.consistency import (
    greatest_entropy,
    predictive_entropy,
    sigmoid_ramp,
    squared_difference,
    with_noise,
)
from nnunet_ssl.training.reference_prediction import probabilities


def test_ramp() -> None:
    ramps = [sigmoid_ramp(step, ramp_steps=10) for step in (0, 5, 9, 10, 11)]
    assert ramps == pytest.approx([0.0067379, 0.2865048, 0.9512294, 1, 1], abs=1e-7)  # exp of -5, -1.25, -0.05
    assert sigmoid_ramp(0, ramp_steps=0) == 1


def test_noise_is_gaussian_clipped_and_fresh() -> None:
    torch.manual_seed(0)
    images = torch.full((1, 1, 100, 100), 3.0)
    first, second = with_noise(images) - images, with_noise(images) - images
    assert first.abs().max() == pytest.approx(0.2, abs=1e-6)
    # a standard normal clipped at two standard deviations has variance 0.9205
    assert first.std().item() == pytest.approx(0.1 * math.sqrt(0.9205), rel=0.03)
    assert first.mean().item() == pytest.approx(0, abs=0.003)
    assert not torch.equal(first, second)
    assert (images == 3).all()


def test_probabilities_are_float32() -> None:
    logits = torch.tensor([0.0, math.log(3)]).view(1, 2, 1).half()
    for has_regions, expected in ((False, [0.25, 0.75]), (True, [0.5, 0.75])):
        probs = probabilities(logits, has_regions=has_regions)
        assert probs.dtype == torch.float32
        assert probs.flatten().tolist() == pytest.approx(expected, abs=1e-3)


def test_squared_difference() -> None:
    probs, reference = torch.tensor([[[0.25, 0.5], [0.75, 0.5]]]), torch.tensor([[[0.5, 0.5], [0.5, 0.5]]])
    assert squared_difference(probs, reference) == 0.0625 / 2
    per_voxel = torch.tensor([[[True, False]]])
    assert squared_difference(probs, reference, per_voxel) == 0.0625
    per_region = torch.tensor([[[True, True], [False, True]]])
    assert squared_difference(probs, reference, per_region).item() == pytest.approx(0.0625 / 3)


def test_nothing_certain_gives_zero_with_a_graph() -> None:
    probs = torch.rand(1, 2, 3, requires_grad=True)
    loss = squared_difference(probs, torch.rand(1, 2, 3), torch.zeros(1, 1, 3, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert (probs.grad == 0).all()


def test_entropy() -> None:
    probs = torch.tensor([[[0.5, 1.0, 0.25], [0.5, 0.0, 0.75]]])
    quarter = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    torch.testing.assert_close(predictive_entropy(probs, has_regions=False), torch.tensor([[[math.log(2), 0.0, quarter]]]))
    of_regions = torch.tensor([[[math.log(2), 0.0, quarter], [math.log(2), 0.0, quarter]]])
    torch.testing.assert_close(predictive_entropy(probs, has_regions=True), of_regions)
    assert greatest_entropy(4, has_regions=False) == math.log(4)
    assert greatest_entropy(4, has_regions=True) == math.log(2)
