"""Dice semimetric loss: soft Dice on hard targets, minimised by soft targets, quiet on absent classes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ssl.losses import dice_semimetric_loss

ALL = torch.ones(1, 1, 4, dtype=torch.bool)


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(1, 1, -1)


def test_equals_soft_dice_on_hard_targets() -> None:
    x, y = row(0.9, 0.6, 0.2, 0.1), row(1, 1, 0, 0)
    soft_dice = 1 - 2 * (0.9 + 0.6) / (1.8 + 2)
    assert dice_semimetric_loss(x, y, mask=ALL, batch_dice=False).item() == pytest.approx(soft_dice, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4), st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4))
def test_no_prediction_is_better_than_a_soft_target_itself(target: list[float], other: list[float]) -> None:
    y = row(*target)
    at_target = dice_semimetric_loss(y, y, mask=ALL, batch_dice=False).item()
    assert at_target == 0
    assert dice_semimetric_loss(row(*other), y, mask=ALL, batch_dice=False).item() >= 0


def test_descent_from_a_hard_prediction_arrives_at_the_soft_target() -> None:
    y = row(0.9, 0.7, 0.4, 0.1)
    logits = row(3.0, 3.0, -3.0, -3.0).clone().requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=0.05)
    for step in range(600):
        for group in optimiser.param_groups:
            group["lr"] = 0.05 * (1 - step / 600)
        optimiser.zero_grad()
        dice_semimetric_loss(logits.sigmoid(), y, mask=ALL, batch_dice=False).backward()
        optimiser.step()
    torch.testing.assert_close(logits.detach().sigmoid(), y, atol=0.02, rtol=0)


def test_classes_in_neither_do_not_count() -> None:
    x = torch.cat([row(0.9, 0.6, 0.2, 0.1), row(0.1, 0.1, 0.1, 0.1)], dim=1)
    y = torch.cat([row(1, 1, 0, 0), row(0, 0, 0, 0)], dim=1)
    both = dice_semimetric_loss(x, y, mask=ALL, batch_dice=False)
    first = dice_semimetric_loss(x[:, :1], y[:, :1], mask=ALL, batch_dice=False)
    assert both == first


def test_a_class_that_is_only_predicted_counts_in_full() -> None:
    assert dice_semimetric_loss(row(0.9, 0.1, 0.1, 0.1), row(0, 0, 0, 0), mask=ALL, batch_dice=False).item() == pytest.approx(1)


def test_masked_voxels_do_not_count() -> None:
    mask = torch.tensor([True, True, False, False]).view(1, 1, 4)
    x = row(0.9, 0.6, 0.9, 0.9).requires_grad_()
    loss = dice_semimetric_loss(x, row(1, 1, 0, 0), mask=mask, batch_dice=False)
    assert loss.item() == pytest.approx(1 - 3.0 / 3.5, abs=1e-6)
    loss.backward()
    assert x.grad is not None
    assert x.grad.flatten()[2:].abs().max() == 0


def test_batch_dice_pools_the_samples() -> None:
    x = torch.tensor([[0.5, 1.0], [0.0, 1.0]]).view(2, 1, 2)
    y = torch.tensor([[1.0, 1.0], [1.0, 0.0]]).view(2, 1, 2)
    mask = torch.ones(2, 1, 2, dtype=torch.bool)
    # sample 1: |x - y| = 0.5 of 3.5; sample 2: 2 of 2; together 2.5 of 5.5
    assert dice_semimetric_loss(x, y, mask=mask, batch_dice=False).item() == pytest.approx((0.5 / 3.5 + 1) / 2)
    assert dice_semimetric_loss(x, y, mask=mask, batch_dice=True).item() == pytest.approx(2.5 / 5.5)


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("samples", [0, 2])
def test_empty_sets_give_zero_with_a_graph(batch_dice: bool, samples: int) -> None:
    x = torch.full((samples, 3, 4), 0.9, requires_grad=True)
    mask = torch.zeros(samples, 1, 4, dtype=torch.bool)
    loss = dice_semimetric_loss(x, torch.ones(samples, 3, 4), mask=mask, batch_dice=batch_dice)
    assert loss.item() == 0
    loss.backward()
    assert x.grad is not None
    assert x.grad.abs().sum() == 0
