"""A control network beside a frozen U-Net (RDEIC, paper 002, sec. 3.1; DiffEIC, paper 003, III-C).

    z_t ──► input 1 ──(+)──► … ──► middle ──(+)──► (+)──► output 1 ──► … ──► head ──► eps
               frozen  ▲              frozen  ▲     ▲        frozen
                     zero conv              zero   zero convs, from the control's skips
    cat(z_t, hint) ─► control 1 ──► … ──► control middle

The structure is ControlNet-XS's (Zavadski et al. 2023): a narrow copy of the way down, whose maps
reach both halves of the frozen network through 1x1 convolutions that start at zero.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from cdcodec.nn.unet import BlockUnet, UnetShape


class ControlHalf(Protocol):
    """The way down of a U-Net and its middle, see BlockUnet; an nn.Module.

    Its input blocks are as many, and of the same scales, as those of the frozen U-Net.
    """

    @property
    def shape(self) -> UnetShape:
        """Widths of the blocks; outputs is not looked at."""

    def embed(self, t: Tensor) -> Tensor:
        """Map steps t [B] to what the blocks take."""

    def input(self, i: int, h: Tensor, emb: Tensor) -> Tensor:
        """Run input block i; the first takes cat(z_t, hint)."""

    def middle(self, h: Tensor, emb: Tensor) -> Tensor:
        """Run the middle block."""


class Control(nn.Module):
    """The trained half: a narrow way down and the zero convolutions.

    Attributes:
        narrow: A ControlHalf.
        enter: Zero convolutions to the outputs of the frozen input blocks.
        centre: To the output of the frozen middle block.
        leave: To what enters the frozen output blocks.
    """

    def __init__(self, half: ControlHalf, base: UnetShape) -> None:
        super().__init__()
        assert isinstance(half, nn.Module)
        self.narrow: ControlHalf = half
        own = half.shape
        self.enter = nn.ModuleList(map(_zero_conv, own.inputs, base.inputs))
        self.centre = _zero_conv(own.middle, base.middle)
        self.leave = nn.ModuleList(map(_zero_conv, reversed(own.inputs), base.outputs))


def controlled_noise(
    base: BlockUnet, control: Control, z: Tensor, t: Tensor, hint: Tensor
) -> Tensor:
    """Return eps of z [B, C, h, w] at steps t [B], given hint [B, C', h, w]."""
    emb, own_emb = base.embed(t), control.narrow.embed(t)
    h, c = z, torch.cat([z, hint.to(z.dtype)], 1)
    skips: list[Tensor] = []
    own_skips: list[Tensor] = []
    for i, zero in enumerate(control.enter):
        h = base.input(i, h, emb)
        c = control.narrow.input(i, c, own_emb)
        h = h + zero(c)
        skips.append(h)
        own_skips.append(c)
    h = base.middle(h, emb) + control.centre(control.narrow.middle(c, own_emb))
    for i, zero in enumerate(control.leave):
        h = base.output(i, h + zero(own_skips.pop()), skips.pop(), emb)
    return base.head(h)


def _zero_conv(channels: int, base_channels: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels, base_channels, 1)
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
