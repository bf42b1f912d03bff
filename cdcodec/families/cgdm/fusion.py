"""Syntax driven feature fusion (paper 004, eq. 4 and 5).

    u_i = W_e * e_i + W_d * d_i,    (W_e, W_d) = FC(cat(s, t))

The paper's kernels map all channels to all, which a fully connected net can't make: 64 channels
at 3x3 are 36,864 numbers, and the net's last layer 32 times as many. Here a kernel is what such a
net can make, added to the identity: a 3x3 filter for each channel plus a pointwise map of low rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 3
"""Rows and columns of the filters."""


class DynamicKernel(nn.Module):
    """W * x for kernels W that differ from sample to sample."""

    def __init__(self, condition: int, channels: int, rank: int) -> None:
        super().__init__()
        self.channels = channels
        self.rank = rank
        self.make = nn.Linear(condition, channels * (SIDE * SIDE + rank))
        # The other factor of the pointwise map is shared; else both would start at zero and stay.
        self.spread = nn.Conv2d(rank, channels, 1, bias=False)
        nn.init.zeros_(self.make.weight)
        nn.init.zeros_(self.make.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map x [B, C, H, W] to the same shape; condition is [B, D]."""
        batch, channels, height, width = x.shape
        kernels = self.make(condition).to(x.dtype)
        filters, gather = kernels.split([channels * SIDE * SIDE, channels * self.rank], 1)
        flat = x.reshape(1, batch * channels, height, width)
        filtered = F.conv2d(
            flat,
            filters.reshape(batch * channels, 1, SIDE, SIDE),
            padding=SIDE // 2,
            groups=batch * channels,
        ).reshape(x.shape)
        gathered = torch.einsum("brc,bchw->brhw", gather.reshape(batch, self.rank, channels), x)
        mixed: Tensor = x + filtered + self.spread(gathered)
        return mixed


class SyntaxFusion(nn.Module):
    """SFF at one scale."""

    def __init__(self, inputs: int, hidden: int, channels: int, rank: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU())
        self.w_e = DynamicKernel(hidden, channels, rank)
        self.w_d = DynamicKernel(hidden, channels, rank)

    def forward(self, e: Tensor, d: Tensor, code: Tensor) -> Tensor:
        """Fuse e and d [B, C, H, W], given cat(s, t) [B, D]."""
        condition = self.net(code)
        fused: Tensor = self.w_e(e, condition) + self.w_d(d, condition)
        return fused
