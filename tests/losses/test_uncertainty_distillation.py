"""The head's loss against simulated variances, its weights and its band."""

import math

import pytest
import torch

from nnunet_ssl.errors import ConfigError
from nnunet_ssl.losses import distillation_loss, distillation_weights, patch_foreground_band


def minimiser(variance: torch.Tensor, kind: str) -> float:
    """The variance that one number U for all voxels settles at."""
    u = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.LBFGS([u], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = distillation_loss(u.expand_as(variance), variance, kind=kind, weight=torch.ones_like(variance))
        loss.backward()
        return loss

    optimiser.step(closure)
    return math.exp(u.item())


def test_variance_finds_the_mean_variance_and_paper_falls_short() -> None:
    # 8 samples of sd 0.2 at each of 4000 voxels
    samples = 0.2 * torch.randn(8, 1, 1, 4000, generator=torch.Generator().manual_seed(0))
    observed = samples.var(0, unbiased=True)
    assert minimiser(observed, "variance") == pytest.approx(observed.mean().item(), rel=1e-3)
    assert minimiser(observed, "variance") == pytest.approx(0.04, rel=0.05)
    assert minimiser(observed, "paper") == pytest.approx(observed.clamp_min(1e-4).log().mean().exp().item(), rel=1e-3)
    assert minimiser(observed, "paper") < 0.9 * 0.04


def test_paper_falls_far_short_where_variance_is_rare() -> None:
    # one voxel in eight flips between 0.2 and 0.8, as at a boundary
    observed = torch.tensor([0.09, 0, 0, 0, 0, 0, 0, 0]).view(1, 1, 8)
    assert minimiser(observed, "variance") == pytest.approx(0.09 / 8, rel=1e-3)
    assert minimiser(observed, "paper") == pytest.approx(1e-4 * 900 ** (1 / 8), rel=1e-3)


def test_values_by_hand() -> None:
    u = torch.tensor([[[math.log(0.1), math.log(0.2)]]])
    v = torch.tensor([[[0.2, 0.0]]])
    weight = torch.tensor([[[3.0, 1.0]]])
    expected = (3 * (2 + math.log(0.1)) + math.log(0.2)) / 4
    assert distillation_loss(u, v, kind="variance", weight=weight).item() == pytest.approx(expected)
    expected = (3 * math.log(0.5) ** 2 + (math.log(0.2) - math.log(1e-4)) ** 2) / 4
    assert distillation_loss(u, v, kind="paper", weight=weight).item() == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["variance", "paper"])
def test_no_weight_gives_zero_with_a_graph(kind: str) -> None:
    u = torch.zeros(1, 1, 3, requires_grad=True)
    loss = distillation_loss(u, torch.ones(1, 1, 3), kind=kind, weight=torch.zeros(1, 1, 3))
    assert loss.item() == 0
    loss.backward()
    assert u.grad is not None
    assert u.grad.abs().sum() == 0


def test_wrong_input_is_refused() -> None:
    u = torch.zeros(1, 1, 3)
    with pytest.raises(ConfigError, match="'l2'"):
        distillation_loss(u, u, kind="l2", weight=u)
    with pytest.raises(ValueError, match="must be equal"):
        distillation_loss(u, u[:, 0], kind="paper", weight=u)


def test_half_of_the_weight_is_in_the_band() -> None:
    band = torch.tensor([[[1, 0, 0, 0, 0]], [[0, 0, 0, 0, 0]], [[1, 1, 1, 1, 1]]]).bool()
    weights = distillation_weights(band)
    expected = torch.tensor([[0.5, 0.125, 0.125, 0.125, 0.125], [0.2] * 5, [0.2] * 5])
    torch.testing.assert_close(weights[:, 0], expected)


def test_invalid_voxels_weigh_nothing() -> None:
    band = torch.tensor([[[1, 0, 0], [0, 0, 0]]]).bool()
    valid = torch.tensor([[[1, 1, 0]]]).bool()
    torch.testing.assert_close(distillation_weights(band, valid=valid), torch.tensor([[[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]]))
    assert distillation_weights(band, valid=torch.zeros_like(valid)).sum() == 0


@pytest.mark.parametrize("spatial", [(9,), (9, 7), (9, 7, 8)])
def test_band_is_a_cube_around_the_foreground(spatial: tuple[int, ...]) -> None:
    foreground = torch.zeros(1, 1, *spatial, dtype=torch.bool)
    centre = tuple(s // 2 for s in spatial)
    foreground[(0, 0, *centre)] = True
    band = patch_foreground_band(foreground, radius=2)
    assert band.dtype == torch.bool
    assert band.sum() == 5 ** len(spatial)
    assert torch.equal(patch_foreground_band(foreground, radius=0), foreground)
