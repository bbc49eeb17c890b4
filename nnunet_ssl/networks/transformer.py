"""Transformer blocks on the deepest features (paper Eq. 4)."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from nnunet_ssl.errors import ConfigError

EXPANSION = 4
"""Width of the feed-forward's hidden layer in multiples of the token width."""


class SelfAttention(nn.Module):
    """Multi-head self-attention.

    The projections to query, key and value have no bias: one of the keys would shift all scores of a query alike and change nothing.
    """

    def __init__(self, *, channels: int, heads: int) -> None:
        """Build the projections.

        Args:
            channels: token width d.
            heads: attention heads; divides the width.

        Raises:
            ConfigError: if the heads do not divide the width.
        """
        super().__init__()
        if heads < 1 or channels % heads:
            raise ConfigError(f"attention_heads is {heads}; expected a divisor of the {channels} features of the deepest stage.")
        self.heads = heads
        self.query_key_value = nn.Linear(channels, 3 * channels, bias=False)
        self.output = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend from every token to every token.

        Args:
            tokens: (B, N, d).

        Returns:
            Tokens (B, N, d).
        """
        # `scaled_dot_product_attention` never holds the N x N scores where its fused kernels run
        query, key, value = rearrange(self.query_key_value(tokens), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        attended = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.output(rearrange(attended, "b h n d -> b n (h d)"))
        return out


class TransformerBlock(nn.Module):
    """Pre-norm block: x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, *, channels: int, heads: int, expansion: int = EXPANSION) -> None:
        """Build the block.

        Args:
            channels: token width d.
            heads: attention heads.
            expansion: width of the feed-forward's hidden layer in multiples of d.
        """
        super().__init__()
        self.attention_norm = nn.LayerNorm(channels)
        self.attention = SelfAttention(channels=channels, heads=heads)
        self.feed_forward_norm = nn.LayerNorm(channels)
        self.feed_forward = nn.Sequential(nn.Linear(channels, expansion * channels), nn.GELU(), nn.Linear(expansion * channels, channels))

    def forward(self, tokens: Tensor) -> Tensor:
        """Refine tokens.

        Args:
            tokens: (B, N, d).

        Returns:
            Tokens (B, N, d).
        """
        tokens = tokens + self.attention(self.attention_norm(tokens))
        out: Tensor = tokens + self.feed_forward(self.feed_forward_norm(tokens))
        return out


class TransformerBottleneck(nn.Module):
    """Turns a feature map into tokens, one per voxel (Eq. 4), runs transformer blocks and turns it back.

    Positions come from a depthwise convolution with zero padding (Chu et al., "Conditional positional encodings", 2021): it serves any
    grid, and says where a token lies relative to its neighbours and to the border instead of fixing a patch size.
    """

    def __init__(self, *, channels: int, heads: int, num_blocks: int, conv_op: type[nn.Module]) -> None:
        """Build positions and blocks.

        Args:
            channels: channels of the map, the token width d.
            heads: attention heads; divides the channels.
            num_blocks: transformer blocks.
            conv_op: `torch.nn.Conv2d` or `torch.nn.Conv3d`.
        """
        super().__init__()
        self.positions = conv_op(channels, channels, 3, padding=1, groups=channels)
        self.blocks = nn.Sequential(*(TransformerBlock(channels=channels, heads=heads) for _ in range(num_blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """Relate every voxel of the map to every other.

        Args:
            x: features (B, C, *spatial).

        Returns:
            Features of the same shape.
        """
        x = x + self.positions(x)
        tokens: Tensor = self.blocks(x.flatten(2).transpose(1, 2))  # (B, N, C), N the product of the spatial sizes
        return tokens.transpose(1, 2).reshape(x.shape)
