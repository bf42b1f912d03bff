"""Channel normalisation and attention whose cost is linear in the number of pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each pixel, with a gain and a bias per channel."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.gain = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [B, C, H, W]; the variance is the biased one."""
        variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
        return (x - mean) * torch.rsqrt(variance + self.eps) * self.gain + self.bias


class LinearAttention(nn.Module):
    """Attention with the softmax over the pixels of the keys only (Shen et al. 2021), one head.

    The keys average the values into a C x C summary of the image, from which every pixel's query
    reads, so that cost and memory grow with the pixels and not with their square. Unlike Shen et
    al. the queries have no softmax of their own, as in the CDC authors' networks.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = channels**-0.5
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.to_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, C, H, W] to the same shape."""
        query, key, value = self.to_qkv(x).flatten(2).chunk(3, dim=1)
        summary = value @ key.softmax(dim=-1).transpose(1, 2)
        read: Tensor = self.to_out((summary @ (query * self.scale)).view_as(x))
        return read


class AttentionBlock(nn.Module):
    """x + attention(norm(x))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.attention = LinearAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, C, H, W] to the same shape."""
        out: Tensor = x + self.attention(self.norm(x))
        return out
