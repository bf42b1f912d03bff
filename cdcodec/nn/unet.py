"""The small latent prior's U-Net, seen as rows of blocks that a control network can reach into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from cdcodec.nn.blocks import Embedding, Stack, Upsample, conv

TRAIN_STEPS = 1000


@dataclass(frozen=True)
class UnetShape:
    """What a control network has to know of a U-Net, see nn.control.

    Attributes:
        inputs: Channels after each input block.
        middle: Channels after the middle block.
        outputs: Channels that enter each output block, before the skip is concatenated.
    """

    inputs: tuple[int, ...]
    middle: int
    outputs: tuple[int, ...]


class BlockUnet(Protocol):
    """A U-Net, block by block.

    Its evaluation: emb = embed(t); h = z; for each input block, h = input(i, h, emb), kept as skip
    i; h = middle(h, emb); for each output block, with the last skip that is left, h = output(i, h,
    skip, emb); eps = head(h).
    """

    @property
    def shape(self) -> UnetShape:
        """Numbers and widths of the blocks."""

    def embed(self, t: Tensor) -> Tensor:
        """Map steps t [B], 0..999, to what the blocks take."""

    def input(self, i: int, h: Tensor, emb: Tensor) -> Tensor:
        """Run input block i; the first takes the latent."""

    def middle(self, h: Tensor, emb: Tensor) -> Tensor:
        """Run the middle block."""

    def output(self, i: int, h: Tensor, skip: Tensor, emb: Tensor) -> Tensor:
        """Run output block i."""

    def head(self, h: Tensor) -> Tensor:
        """Map the last output to eps."""


class DownHalf(nn.Module):
    """The way down of a small U-Net: one block for each scale, and the middle."""

    def __init__(
        self, channels: int, widths: Sequence[int], depths: Sequence[int], condition: int
    ) -> None:
        super().__init__()
        self.time = Embedding(condition)
        self.shape = UnetShape(tuple(widths), widths[-1], ())
        before = [channels, *widths[:-1]]
        self.stems = nn.ModuleList(
            conv(a, b, stride=1 if i == 0 else 2)
            for i, (a, b) in enumerate(zip(before, widths, strict=True))
        )
        self.stacks = nn.ModuleList(
            Stack(width, depth, condition) for width, depth in zip(widths, depths, strict=True)
        )
        self.centre = Stack(widths[-1], 1, condition)

    def embed(self, t: Tensor) -> Tensor:
        """See BlockUnet."""
        condition: Tensor = self.time(t.float() / TRAIN_STEPS)
        return condition

    def input(self, i: int, h: Tensor, emb: Tensor) -> Tensor:
        """See BlockUnet; all but the first halve height and width, rounding up."""
        out: Tensor = self.stacks[i](self.stems[i](h), emb)
        return out

    def middle(self, h: Tensor, emb: Tensor) -> Tensor:
        """See BlockUnet."""
        out: Tensor = self.centre(h, emb)
        return out


class SmallUnet(DownHalf):
    """An unconditional eps-predicting U-Net on latents [B, C, h, w], h and w multiples of 4.

    Without normalisation and attention, so that what it does to a tile doesn't depend on the rest
    of the picture.
    """

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        down: Sequence[int],
        up: Sequence[int],
        condition: int,
    ) -> None:
        super().__init__(channels, widths, down, condition)
        rising = list(reversed(widths))
        self.shape = UnetShape(tuple(widths), widths[-1], tuple(rising))
        self.joins = nn.ModuleList(conv(2 * width, width, kernel=1) for width in rising)
        self.rises = nn.ModuleList(
            Stack(width, depth, condition)
            for width, depth in zip(rising, reversed(up), strict=True)
        )
        self.grows = nn.ModuleList(Upsample(a, b) for a, b in zip(rising, rising[1:], strict=False))
        self.last = conv(widths[0], channels)

    def output(self, i: int, h: Tensor, skip: Tensor, emb: Tensor) -> Tensor:
        """See BlockUnet; all but the last double height and width."""
        h = self.rises[i](self.joins[i](torch.cat([h, skip], 1)), emb)
        return self.grows[i](h) if i < len(self.grows) else h

    def head(self, h: Tensor) -> Tensor:
        """See BlockUnet."""
        eps: Tensor = self.last(h)
        return eps


def predict_noise(unet: BlockUnet, z: Tensor, t: Tensor) -> Tensor:
    """Return eps of z [B, C, h, w] at steps t [B], without control."""
    emb = unet.embed(t)
    skips: list[Tensor] = []
    h = z
    for i in range(len(unet.shape.inputs)):
        h = unet.input(i, h, emb)
        skips.append(h)
    h = unet.middle(h, emb)
    for i in range(len(unet.shape.outputs)):
        h = unet.output(i, h, skips.pop(), emb)
    return unet.head(h)
