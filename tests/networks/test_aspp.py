from itertools import product

import pytest
import torch
from torch import nn

from nnunet_ssl.errors import ConfigError
from nnunet_ssl.networks import ASPP, clip_dilations
from nnunet_ssl.networks.conv_style import ConvStyle

BARE_2D = ConvStyle(conv_op=nn.Conv2d, nonlin=nn.ReLU)
NORMED_3D = ConvStyle(conv_op=nn.Conv3d, norm_op=nn.InstanceNorm3d, norm_op_kwargs={"affine": True}, nonlin=nn.LeakyReLU)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((5, 7, 5), ((1, 1, 1), (2, 2, 2), (2, 3, 2))),
        ((4, 4, 4), ((1, 1, 1), (2, 2, 2))),
        ((6, 8), ((1, 1), (2, 2), (3, 3))),
        ((1, 6, 2), ((0, 1, 1), (0, 2, 1), (0, 3, 1))),
        ((1, 1), ((0, 0),)),
        ((3, 3, 3), ((1, 1, 1),)),
    ],
)
def test_clip_dilations(size, expected):
    assert clip_dilations((1, 2, 3), size) == expected
    assert clip_dilations(expected, size) == expected


def test_clip_dilations_takes_rates_per_axis():
    assert clip_dilations([[1, 2], [4, 1], 3], (6, 4)) == ((1, 2), (3, 1), (3, 2))


@pytest.mark.parametrize("bad", [[1, 1], [1, 1, -1], -1])
def test_clip_dilations_refuses(bad):
    with pytest.raises(ConfigError, match="aspp_dilations"):
        clip_dilations([bad], (4, 4, 4))


@pytest.mark.parametrize("size", [*product(range(1, 9), repeat=2), *product((1, 2, 3, 5, 8), repeat=3)])
def test_every_tap_meets_real_voxels(size):
    style = ConvStyle(conv_op=nn.Conv2d if len(size) == 2 else nn.Conv3d)
    aspp = ASPP(channels=1, dilations=clip_dilations((1, 2, 3), size), style=style)
    ones = torch.ones(1, 1, *size)
    for conv in (module for branch in aspp.branches for module in branch.modules() if isinstance(module, style.conv_op)):
        out = conv(ones)
        assert out.shape[2:] == size
        (voxels_met,) = torch.autograd.grad(out.sum(), conv.weight)  # of an image of ones: how many real voxels each tap meets
        assert voxels_met.min() >= 1


def test_hand_worked_branches():
    aspp = ASPP(channels=1, dilations=[(2, 1)], style=BARE_2D)
    one, dilated = aspp.branches
    with torch.no_grad():
        for parameter in aspp.parameters():
            parameter.zero_()
        one.conv.weight[0] = 3.0  # branch channel 0: 3 x
        dilated[0].weight[0, 0, 0, 1] = 1.0  # branch channel 0: x two rows up
        aspp.project.conv.weight[0, 0] = 1.0
        aspp.project.conv.weight[0, 8] = 10.0
        aspp.image_level[0].weight[0] = 1.0
        aspp.image_level[2].weight[0, 0] = 100.0
    x = torch.arange(8.0).reshape(1, 1, 4, 2)  # mean 3.5
    above = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 1.0], [2.0, 3.0]])
    torch.testing.assert_close(aspp(x)[0, 0], 3 * x[0, 0] + 10 * above + 350.0)


def test_image_level_branch_works_and_counts_under_instance_norm():
    aspp = ASPP(channels=8, dilations=clip_dilations((1, 2, 3), (4, 4, 2)), style=NORMED_3D).train()
    x = torch.randn(2, 8, 4, 4, 2)
    (aspp(x) * torch.randn(2, 8, 4, 4, 2)).sum().backward()
    assert all(parameter.grad.abs().max() > 1e-3 for parameter in aspp.image_level.parameters())


def test_all_zero_dilation_is_the_branch_that_is_there_anyway():
    assert len(ASPP(channels=8, dilations=[(0, 0)], style=BARE_2D).branches) == 1
