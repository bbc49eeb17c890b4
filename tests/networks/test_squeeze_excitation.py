import pytest
import torch
from torch import nn

from nnunet_ssl.networks import SqueezeExcitation
from nnunet_ssl.networks.conv_style import ConvStyle
from nnunet_ssl.networks.residual_block import ResidualBlock


def test_hand_worked_gate():
    block = SqueezeExcitation(channels=2)
    first, _, last, _ = block.gate
    with torch.no_grad():
        first.weight.zero_()
        first.bias.zero_()
        first.weight[0] = torch.tensor([1.0, -1.0])  # hidden 0 is mean(channel 0) - mean(channel 1)
        last.weight.zero_()
        last.weight[1, 0] = 2.0
        last.bias.copy_(torch.tensor([0.0, 1.0]))
    x = torch.stack([torch.full((2, 3), 5.0), torch.full((2, 3), 3.0)])[None]
    out = block(x)
    # hidden 0 = 5 - 3 = 2; gates: sigmoid(0) = 0.5, sigmoid(2 * 2 + 1) = 0.99331
    torch.testing.assert_close(out[0, 0], torch.full((2, 3), 2.5))
    torch.testing.assert_close(out[0, 1], torch.full((2, 3), 3 * 0.9933071))


@pytest.mark.parametrize("size", [(4, 3), (4, 3, 5)])
def test_one_gate_per_channel_over_all_axes(size):
    block = SqueezeExcitation(channels=6)
    x = torch.rand(2, 6, *size) + 0.5
    ratio = block(x) / x
    assert ratio.flatten(2).std(dim=2).max() < 1e-6
    # moving voxels about along any axis moves the output with them: the averages saw every axis
    for axis in range(2, x.ndim):
        torch.testing.assert_close(block(x.roll(1, axis)), block(x).roll(1, axis))


def test_gate_in_a_residual_block_depends_on_the_image_under_instance_norm():
    style = ConvStyle(conv_op=nn.Conv3d, norm_op=nn.InstanceNorm3d, norm_op_kwargs={"affine": True}, nonlin=nn.ReLU)
    block = ResidualBlock(in_channels=3, out_channels=4, kernel_size=(3, 3, 3), style=style)
    gates = []
    block.squeeze_excitation.gate.register_forward_hook(lambda module, inputs, output: gates.append(output))
    block(torch.randn(2, 3, 6, 6, 6) ** 3)
    assert (gates[0][0] - gates[0][1]).abs().max() > 1e-4


def test_residual_block_without_norm():
    block = ResidualBlock(in_channels=2, out_channels=4, kernel_size=(3, 3), style=ConvStyle(conv_op=nn.Conv2d, nonlin=nn.ReLU))
    assert block(torch.randn(1, 2, 5, 5)).shape == (1, 4, 5, 5)
