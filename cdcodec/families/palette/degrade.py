"""Palettes on tensors: degradation, and the chain that takes it back (paper 000, eq. 4 and 7)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from cdcodec.codec import IntArray, Progress
from cdcodec.families.palette.chain import MAX_ENTRIES, Chain, quantise
from cdcodec.families.palette.config import PaletteConfig

Restore = Callable[[Tensor, Tensor], Tensor]
"""R: z_t [B, GC, h, w] and entries of its palettes [B, G] to z_0_hat of the same shape."""


def grouped(z: Tensor, channels: int) -> list[IntArray]:
    """Return the points of every group, int32 [B h w, C], of z in 8 bits [B, GC, h, w]."""
    points = z.detach().round().clamp(0, 255).to(torch.int32).cpu()
    flat = points.permute(1, 0, 2, 3).flatten(1)
    return [group.T.contiguous().numpy() for group in torch.split(flat, channels)]


class Degradation:
    """C(z, t) for one set of latents that share their palettes."""

    def __init__(
        self, z: Tensor, channels: int, weights: Sequence[int], entries: int = MAX_ENTRIES
    ) -> None:
        """Find palettes of at most so many entries, and the chain, of z in 8 bits [B, GC, h, w]."""
        self.shape = z.shape
        self.device = z.device
        starts = [quantise(points, min(entries, MAX_ENTRIES)) for points in grouped(z, channels)]
        self.index = [index for _, index in starts]
        self.chain = Chain([palette for palette, _ in starts], weights)

    def at(self, total: int) -> tuple[Tensor, list[int]]:
        """Return the latents with at most so many entries in all, and each palette's entries."""
        palettes, maps = self.chain.at(total)
        colours = [
            palette.colours[became[index]].astype(np.float32)
            for palette, became, index in zip(palettes, maps, self.index, strict=True)
        ]
        batch, latent, rows, columns = self.shape
        flat = torch.from_numpy(np.concatenate(colours, 1)).to(self.device)
        z_t = flat.view(batch, rows, columns, latent).permute(0, 3, 1, 2)
        return z_t.contiguous(), [len(palette) for palette in palettes]


def levels(total: int, groups: int, steps: int) -> list[int]:
    """Return how many entries palettes have together at each of so many links, from total up."""
    end = groups * MAX_ENTRIES
    return [round(total * (end / total) ** (k / steps)) for k in range(steps)]


def walk_back(
    restore: Restore,
    z_t: Tensor,
    entries: Tensor,
    total: int,
    steps: int,
    config: PaletteConfig,
    links: int,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the first links of a chain (eq. 7): z <- z - C(z_0_hat, t) + C(z_0_hat, t - 1).

    C finds palettes and chain of the estimate itself, as a reader knows no others: those in a file
    are the coarsest that it needs, and finer ones were never sent.

    Args:
        restore: R.
        z_t: Latents [B, GC, h, w] that share their palettes.
        entries: Of these [B, G].
        total: Entries that they have together.
        steps: Links of the whole chain.
        config: Of the networks.
        links: How many of them to run, fewer than steps.
        progress: Called after each.

    Returns:
        What the next link starts with, and its entries [B, G].
    """
    z, sizes = z_t, entries
    totals = levels(total, config.groups, steps)
    for link in range(links):
        estimate = restore(z, sizes)
        chain = Degradation(estimate, config.channels, config.weights)
        coarse, _ = chain.at(totals[link])
        fine, found = chain.at(totals[link + 1])
        z = z - coarse + fine
        sizes = torch.tensor([found], dtype=torch.float32, device=z.device).expand(len(z), -1)
        if progress is not None:
            progress(link + 1, steps)
    return z, sizes
