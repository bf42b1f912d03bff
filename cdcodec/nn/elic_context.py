"""The space-channel context model of the authors of DiffEIC and RDEIC, in float (ELIC, figure 3).

The channels of y are coded in uneven slices, and every slice in two passes over a checkerboard:

    slices before ──conv5 x3──► channel ─┐
    hyper planes ────────────────────────┼─► anchors ──conv5──► local ─┐
                                         └─────────────────────────────┴─► the others

What the networks here say of y chooses the probability tables, so a codec runs them as integers
(`latent.paper_export`); these are where the integers come from, and the measure for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cdcodec.nn.blocks import conv
from cdcodec.nn.context import checkerboard

CHANNEL_WIDTHS = (224, 128)  # between the convolutions of a channel context
KERNEL = 5  # of local and channel contexts
SCALE_BOUND = 0.11  # scales below it count as it


@dataclass(frozen=True)
class Coded:
    """What coding y under the context has found.

    Attributes:
        y_hat: y rounded about the means [B, M, H, W].
        symbols: The whole steps between the two [B, M, H, W].
        means: [B, M, H, W].
        scales: [B, M, H, W], before the bound.
    """

    y_hat: Tensor
    symbols: Tensor
    means: Tensor
    scales: Tensor


class SliceContext(nn.Module):
    """The networks of one slice of c channels; each gives scales, then means, 2c planes.

    The hidden widths of the pointwise networks are the authors' fractions of what they give.
    """

    def __init__(
        self,
        channels: int,
        before: int,
        hyper: int,
        channel_widths: tuple[int, int] = CHANNEL_WIDTHS,
    ) -> None:
        super().__init__()
        out = 2 * channels
        self.channel: nn.Sequential | None = None
        if before:
            first, second = channel_widths
            self.channel = nn.Sequential(
                conv(before, first, KERNEL),
                nn.GELU(),
                conv(first, second, KERNEL),
                nn.GELU(),
                conv(second, out, KERNEL),
            )
        self.local = conv(channels, out, KERNEL)
        known = hyper + (out if before else 0)
        self.anchor = _pointwise(known, out)
        self.nonanchor = _pointwise(known + out, out)

    def known(self, before: Tensor, hyper: Tensor) -> Tensor:
        """Return what both passes see, from the slices before [B, C, H, W] and the hyper planes."""
        return hyper if self.channel is None else torch.cat([self.channel(before), hyper], 1)


class PaperContext(nn.Module):
    """The whole context model.

    Attributes:
        sizes: Channels of each slice; together those of y.
        slices: The networks of each slice.
    """

    def __init__(
        self,
        sizes: tuple[int, ...],
        hyper: int,
        channel_widths: tuple[int, int] = CHANNEL_WIDTHS,
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.slices = nn.ModuleList(
            SliceContext(size, sum(sizes[:k]), hyper, channel_widths)
            for k, size in enumerate(sizes)
        )

    def forward(self, y: Tensor, hyper: Tensor) -> Coded:
        """Round y [B, M, H, W] about the means that a decoder finds in the order of coding.

        hyper is [B, P, H, W].
        """
        first = checkerboard(y.shape[-2], y.shape[-1], y.device)
        found: list[Coded] = []
        before = y[:, :0]
        for part, networks in zip(
            torch.split(y, list(self.sizes), 1), self._networks(), strict=True
        ):
            known = networks.known(before, hyper)
            scales, means = networks.anchor(known).chunk(2, 1)
            steps = torch.round(part - means)
            local = networks.local((steps + means).where(first, 0))
            later = networks.nonanchor(torch.cat([local, known], 1))
            later_scales, later_means = later.chunk(2, 1)
            scales = scales.where(first, later_scales)
            means = means.where(first, later_means)
            steps = steps.where(first, torch.round(part - means))
            found.append(Coded(steps + means, steps, means, scales))
            before = torch.cat([before, found[-1].y_hat], 1)
        return Coded(
            before,
            *(
                torch.cat([getattr(each, field) for each in found], 1)
                for field in ("symbols", "means", "scales")
            ),
        )

    def _networks(self) -> Iterator[SliceContext]:
        for networks in self.slices:
            assert isinstance(networks, SliceContext)
            yield networks

    def in_coding_order(self, planes: Tensor) -> Tensor:
        """Return planes [1, M, H, W] as a vector: by slice, the anchors of its channels first."""
        first = checkerboard(planes.shape[-2], planes.shape[-1], planes.device)
        return torch.cat(
            [
                part[0][:, mask].flatten()
                for part in torch.split(planes, list(self.sizes), 1)
                for mask in (first, ~first)
            ]
        )


def _pointwise(in_channels: int, out_channels: int) -> nn.Sequential:
    wide, narrow = out_channels * 5 // 3, out_channels * 4 // 3
    return nn.Sequential(
        conv(in_channels, wide, kernel=1),
        nn.GELU(),
        conv(wide, narrow, kernel=1),
        nn.GELU(),
        conv(narrow, out_channels, kernel=1),
    )
