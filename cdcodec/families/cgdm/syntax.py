"""The syntax generator (paper 004, sec. 3.3; Wang et al. 2022, "Neural data-dependent transform").

cat(x, x_tilde) ─► conv, stride 2 ─► conv, stride 2 ─► …
                        │                 │
                       mean              mean      ─► cat ─► linear ─► round ─► s

Wang et al. code s under a hyperprior; here each of its few values has a fixed table.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdcodec.families.cgdm.config import CgdmConfig
from cdcodec.families.cgdm.walk import LIMIT
from cdcodec.nn.blocks import conv, round_through

UNIT = 16
"""A value of s is held in units of 1/16."""

INDEX_UNIT = 64.0
"""Table indices are trained in this unit, so that one learning rate suits all parameters."""


class SyntaxGenerator(nn.Module):
    """What an original has that its base decode lacks, in a handful of 8-bit values.

    Attributes:
        index: Table index of every value, in units of INDEX_UNIT: what its bits are counted with.
    """

    def __init__(self, config: CgdmConfig) -> None:
        super().__init__()
        before = (6, *config.syntax_widths[:-1])
        self.stages = nn.ModuleList(
            conv(a, b, stride=2) for a, b in zip(before, config.syntax_widths, strict=True)
        )
        self.head = nn.Linear(sum(config.syntax_widths), config.syntax)
        self.index = nn.Parameter(torch.full((config.syntax,), 0.45))

    def features(self, x: Tensor, x_tilde: Tensor) -> Tensor:
        """Return the pyramid's means [B, sum of widths] of pictures [B, 3, H, W] in -1..1."""
        # Their difference says what is missing; it is small, hence the factor.
        h = torch.cat([x_tilde, 4 * (x - x_tilde)], 1)
        means = []
        for stage in self.stages:
            h = F.relu(stage(h))
            means.append(h.float().mean((2, 3)))
        return torch.cat(means, 1)

    def vector(self, features: Tensor) -> Tensor:
        """Map features [B, F] to s [B, S] before rounding, in whole steps within ±LIMIT."""
        s: Tensor = (UNIT * self.head(features)).clamp(-LIMIT, LIMIT)
        return s

    def forward(self, x: Tensor, x_tilde: Tensor) -> tuple[Tensor, Tensor]:
        """Return s [B, S] of pictures [B, 3, H, W] in -1..1: (before rounding, rounded).

        Gradients pass the rounding.
        """
        s = self.vector(self.features(x, x_tilde))
        return s, round_through(s)
