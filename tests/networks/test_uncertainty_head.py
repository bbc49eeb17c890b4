import math

import pytest
import torch
from torch import nn

from nnunet_ssl.networks import UncertaintyHead
from nnunet_ssl.networks.conv_style import ConvStyle

LOWEST, HIGHEST = math.log(1e-4), math.log(0.25)


def make_head(num_channels: int = 1) -> UncertaintyHead:
    style = ConvStyle(conv_op=nn.Conv2d, nonlin=nn.LeakyReLU)
    return UncertaintyHead(feature_channels=8, num_classes=2, kernel_size=(3, 3), num_channels=num_channels, style=style)


@pytest.mark.parametrize("num_channels", [1, 3])
def test_starts_at_one_hundredth_with_living_gradients(num_channels):
    head = make_head(num_channels)
    features = torch.randn(2, 8, 6, 6, requires_grad=True)
    out = head(features, torch.randn(2, 2, 6, 6))
    assert out.shape == (2, num_channels, 6, 6)
    torch.testing.assert_close(out, torch.full_like(out, math.log(0.01)), atol=0.05, rtol=0)
    out.sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in head.parameters())


@pytest.mark.parametrize("scale", [-1e3, -10.0, 10.0, 1e3])
def test_stays_in_range(scale):
    head = make_head()
    nn.init.constant_(head.seg_layers[-1].bias, scale)
    out = head(torch.randn(1, 8, 4, 4), torch.randn(1, 2, 4, 4))
    assert out.min() >= LOWEST - 1e-5
    assert out.max() <= HIGHEST + 1e-5


def test_a_saturated_voxel_comes_back():
    head = make_head()
    nn.init.constant_(head.seg_layers[-1].bias, -8.0)  # U is 0.003 above the lower limit
    head(torch.randn(1, 8, 4, 4), torch.randn(1, 2, 4, 4)).sum().backward()
    assert head.seg_layers[-1].bias.grad.item() > 0


def test_half_precision_features_give_single_precision_output():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert make_head()(torch.randn(1, 8, 4, 4), torch.randn(1, 2, 4, 4)).dtype is torch.float32


def test_learns_a_variance_that_depends_on_the_logits():
    # a probability that jumps between p and 0 has a variance that rises and falls with p, here p (1 - p) / 4
    head = make_head()
    optimiser = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(150):
        margin = 4 * torch.randn(2, 1, 12, 12)
        p = margin.sigmoid()
        target = (p * (1 - p) / 4).clamp(min=1e-4)
        out = head(torch.randn(2, 8, 12, 12), torch.cat((margin, -margin), dim=1) / 2)
        loss = (target * (-out).exp() + out).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert (loss - (1 + target.log()).mean()).item() < 0.1  # the least the loss can be is 1 + log v
