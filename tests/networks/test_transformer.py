import pytest
import torch
from torch import nn

from nnunet_ssl.errors import ConfigError
from nnunet_ssl.networks import TransformerBlock, TransformerBottleneck
from nnunet_ssl.networks.trans_aspp_unet import default_attention_heads
from nnunet_ssl.networks.transformer import SelfAttention


def test_attention_equals_torch_multihead_attention():
    ours = SelfAttention(channels=12, heads=3)
    theirs = nn.MultiheadAttention(12, 3, bias=True, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.query_key_value.weight)
        theirs.in_proj_bias.zero_()
        theirs.out_proj.weight.copy_(ours.output.weight)
        theirs.out_proj.bias.copy_(ours.output.bias)
    tokens = torch.randn(2, 7, 12)
    torch.testing.assert_close(ours(tokens), theirs(tokens, tokens, tokens, need_weights=False)[0])


def test_block_equals_torch_encoder_layer():
    ours = TransformerBlock(channels=8, heads=2)
    theirs = nn.TransformerEncoderLayer(8, 2, dim_feedforward=32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(ours.attention.query_key_value.weight)
        theirs.self_attn.in_proj_bias.zero_()
        theirs.self_attn.out_proj.load_state_dict(ours.attention.output.state_dict())
        theirs.linear1.load_state_dict(ours.feed_forward[0].state_dict())
        theirs.linear2.load_state_dict(ours.feed_forward[2].state_dict())
    tokens = torch.randn(2, 5, 8)
    torch.testing.assert_close(ours(tokens), theirs(tokens))


def test_hand_worked_attention_of_two_tokens():
    attention = SelfAttention(channels=1, heads=1)
    with torch.no_grad():
        attention.query_key_value.weight.fill_(1.0)
        attention.output.weight.fill_(1.0)
        attention.output.bias.zero_()
    # token values 0 and ln 3: scores of the second are 0 and (ln 3)^2 = 1.20695; weights 0.23024, 0.76976; 0.76976 ln 3 = 0.84567
    out = attention(torch.tensor([[[0.0], [1.0986123]]]))
    torch.testing.assert_close(out.flatten(), torch.tensor([0.5493061, 0.8456680]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("grid", [(3, 4), (1, 1), (2, 3, 4), (1, 5, 2)])
def test_any_grid(grid):
    conv_op = nn.Conv2d if len(grid) == 2 else nn.Conv3d
    bottleneck = TransformerBottleneck(channels=8, heads=2, num_blocks=2, conv_op=conv_op)
    assert bottleneck(torch.randn(2, 8, *grid)).shape == (2, 8, *grid)


def test_reaches_across_the_grid():
    bottleneck = TransformerBottleneck(channels=8, heads=2, num_blocks=1, conv_op=nn.Conv2d)
    x = torch.randn(1, 8, 6, 6, requires_grad=True)
    (bottleneck(x)[0, :, 0, 0] * torch.randn(8)).sum().backward()
    assert x.grad[0, :, 5, 5].abs().max() > 1e-6


def test_positions_tell_equal_tokens_apart():
    bottleneck = TransformerBottleneck(channels=8, heads=2, num_blocks=1, conv_op=nn.Conv2d)
    out = bottleneck(torch.ones(1, 8, 4, 4))
    assert (out[..., 0, 0] - out[..., 1, 1]).abs().max() > 1e-3


def test_heads_must_divide_the_features():
    with pytest.raises(ConfigError, match="divisor of the 10 features"):
        SelfAttention(channels=10, heads=3)


@pytest.mark.parametrize(("features", "heads"), [(8, 1), (33, 1), (64, 2), (125, 1), (256, 8), (320, 10), (512, 16)])
def test_default_heads(features, heads):
    assert default_attention_heads(features) == heads
