import pytest
import torch
from network_memory import pretended_gpu
from torch import nn

from nnunet_ssl.networks import AttentionGate
from nnunet_ssl.networks.conv_style import ConvStyle


def test_hand_worked_gate():
    gate = AttentionGate(skip_channels=2, below_channels=1, stride=(1, 2), style=ConvStyle(conv_op=nn.Conv2d, nonlin=nn.ReLU))
    with torch.no_grad():
        gate.skip_projection.weight.zero_()
        gate.skip_projection.weight[0, 0] = 0.5  # mean of channel 0 over the two voxels of a coarse one
        gate.below_projection.weight.fill_(2.0)
        gate.below_projection.bias.fill_(1.0)
        gate.score.weight.fill_(1.0)
        gate.score.bias.fill_(-3.0)
    skip = torch.tensor([[[[1.0, 3.0, 5.0, 7.0]], [[1.0, 1.0, 1.0, 1.0]]]])
    below = torch.tensor([[[[0.0, -4.0]]]])
    # scores: relu(2 + 0 + 1) - 3 = 0 and relu(6 - 8 + 1) - 3 = -3; gates 0.5 and 0.0474259, interpolated linearly between the voxel centres
    a, b = 0.5, 0.04742587
    gates = torch.tensor([a, 0.75 * a + 0.25 * b, 0.25 * a + 0.75 * b, b])
    torch.testing.assert_close(gate(skip, below), skip * gates)


@pytest.mark.parametrize("stride", [(2, 2, 2), (1, 2, 2), (1, 1, 1)])
def test_gate_lies_between_zero_and_one(stride):
    gate = AttentionGate(skip_channels=4, below_channels=6, stride=stride, style=ConvStyle(conv_op=nn.Conv3d, nonlin=nn.LeakyReLU))
    skip = torch.rand(2, 4, 4, 4, 6) + 1
    below = torch.randn(2, 6, *(size // s for size, s in zip((4, 4, 6), stride, strict=True)))
    ratio = gate(skip, below) / skip
    assert ratio.min() > 0
    assert ratio.max() < 1
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))  # the same for all channels of a voxel


def test_gate_leaves_half_precision_as_it_is():
    """Interpolation is float32 under CUDA's mixed precision; everything behind the gate would be, too."""
    with pretended_gpu(), torch.device("cuda"):
        gate = AttentionGate(skip_channels=4, below_channels=6, stride=(2, 2), style=ConvStyle(conv_op=nn.Conv2d, nonlin=nn.LeakyReLU))
        half = {"dtype": torch.float16}
        assert gate(torch.empty(1, 4, 8, 8, **half), torch.empty(1, 6, 4, 4, **half)).dtype == torch.float16
