"""The cap on R_low's gradient."""

import pytest
import torch

from nnunet_ssl.losses import unlearning_scale


def logits() -> torch.Tensor:
    return torch.zeros(1, 2, 2, requires_grad=True)


def test_scales_down_to_the_ratio() -> None:
    z = logits()
    # gradients (3, 4, 0, 0) and (0, 0, 8, 6): norms 5 and 10
    sup = 3 * z[0, 0, 0] + 4 * z[0, 0, 1]
    low = 8 * z[0, 1, 0] + 6 * z[0, 1, 1]
    scale, ratio = unlearning_scale(sup, low, z, max_ratio=0.1)
    assert ratio.item() == pytest.approx(2)
    assert scale.item() == pytest.approx(0.05)
    assert not scale.requires_grad
    assert not ratio.requires_grad
    (sup + scale * low).backward()
    assert z.grad is not None
    torch.testing.assert_close(z.grad.flatten(), torch.tensor([3.0, 4.0, 0.4, 0.3]))


def test_leaves_a_small_gradient_alone() -> None:
    z = logits()
    scale, ratio = unlearning_scale(z.sum(), 0.01 * z.sum(), z, max_ratio=0.1)
    assert scale.item() == 1
    assert ratio.item() == pytest.approx(0.01)


@pytest.mark.parametrize("disconnected", [False, True])
def test_without_a_gradient_of_r_low_there_is_nothing_to_hold(disconnected: bool) -> None:
    z = logits()
    nothing = torch.zeros(()) if disconnected else z.sum() * 0
    scale, ratio = unlearning_scale(z.sum(), nothing, z, max_ratio=0.1)
    assert (scale.item(), ratio.item()) == (1, 0)
    scale, ratio = unlearning_scale(nothing, nothing, z, max_ratio=0.1)
    assert (scale.item(), ratio.item()) == (1, 0)


@pytest.mark.parametrize("disconnected", [False, True])
def test_without_a_gradient_of_l_sup_there_is_nothing_to_measure_against(disconnected: bool) -> None:
    z = logits()
    nothing = torch.zeros(()) if disconnected else z.sum() * 0
    scale, ratio = unlearning_scale(nothing, z.sum(), z, max_ratio=0.1)
    assert scale.isnan()
    assert ratio.isnan()


def test_a_loss_of_other_tensors_has_no_gradient_here() -> None:
    z, other = logits(), torch.ones(1, requires_grad=True)
    scale, ratio = unlearning_scale(z.sum(), other.sum(), z, max_ratio=0.1)
    assert (scale.item(), ratio.item()) == (1, 0)


def test_tiny_gradients_survive_half_precision_logits() -> None:
    z = torch.zeros(1, 2, 8, dtype=torch.float16, requires_grad=True)
    # 1e-8 per voxel is 0 in float16
    scale, ratio = unlearning_scale(1e-8 * z.float().sum(), 2e-8 * z.float().sum(), z, max_ratio=0.1)
    assert ratio.item() == pytest.approx(2, rel=0.01)
    assert scale.item() == pytest.approx(0.05, rel=0.01)


def test_an_overflow_leaves_unlearning_out() -> None:
    z = torch.zeros(1, 2, 8, dtype=torch.float16, requires_grad=True)
    scale, ratio = unlearning_scale(1e6 * z.float().sum(), z.float().sum(), z, max_ratio=0.1)
    assert (scale.item(), ratio.item()) == (0, 0)
