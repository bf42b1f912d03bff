"""Palettes on tensors: degradation, and the chain that takes it back (paper 000, eq. 4 and 7)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from cdcodec.codec import IntArray, Progress
from cdcodec.families.palette.chain import MAX_ENTRIES, quantise
from cdcodec.families.palette.ladder import Ladder

REACH = 0.5
"""How far a chain goes. To the end, small networks take their own inventions for what was sent: on
four photographs that are neither trained nor reported on (scikit-image's astronaut, coffee, chelsea
and rocket) LPIPS of four steps was 0.001 worse than that of one at 0.2 bpp; half way it is not."""

CHUNK = 2**16
"""Positions that are assigned at once."""

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
        """Find palettes of at most so many entries for z in 8 bits [B, GC, h, w]."""
        batch, _, rows, columns = self.shape = z.shape
        self.device = z.device
        starts = [quantise(points, min(entries, MAX_ENTRIES)) for points in grouped(z, channels)]
        # Latents of a set are one map, one below the other.
        index = np.stack([assigned.reshape(batch * rows, columns) for _, assigned in starts])
        self.ladder = Ladder([palette for palette, _ in starts], index, weights)

    def at(self, height: int) -> tuple[Tensor, list[Tensor]]:
        """Return the latents so many steps above the lowest, or fewer if they never were more.

        With them come their palettes, float32 [K, C] each.
        """
        batch, latent, rows, columns = self.shape
        palettes, index = self.ladder.at(height)
        colours = [palette.colours.astype(np.float32) for palette in palettes]
        planes = [colour[group] for colour, group in zip(colours, index, strict=True)]
        flat = torch.from_numpy(np.concatenate(planes, 2)).to(self.device)
        z_t = flat.view(batch, rows, columns, latent).permute(0, 3, 1, 2)
        return z_t.contiguous(), [torch.from_numpy(colour).to(self.device) for colour in colours]


def assign(z: Tensor, palettes: Sequence[Tensor]) -> Tensor:
    """Return z [B, GC, h, w] in the nearest colours of its palettes, float32 [K, C] a group."""
    batch, _, rows, columns = z.shape
    flat = z.float().permute(0, 2, 3, 1).reshape(batch * rows * columns, -1)
    nearest = torch.empty_like(flat)
    channel = 0
    for palette in palettes:
        group = slice(channel, channel + palette.shape[1])
        squares = palette.square().sum(1)
        for start in range(0, len(flat), CHUNK):
            part = slice(start, start + CHUNK)
            scores = torch.addmm(squares, flat[part, group], palette.T, alpha=-2)
            nearest[part, group] = palette[scores.argmin(1)]
        channel += palette.shape[1]
    return nearest.view(batch, rows, columns, -1).permute(0, 3, 1, 2)


def walk_back(
    restore: Restore,
    z_t: Tensor,
    palettes: Sequence[Tensor],
    steps: int,
    links: int,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the first links of a chain (eq. 7): z <- z - C(z_0_hat, s) + C(z_0_hat, s - 1).

    What lies between a file's link and the latent itself was never sent, so C is continued evenly:
    C(z, s) = z + w (A(z) - z), where A assigns to the file's palettes, and w falls from 1 at the
    file's link to 1 - REACH. (Palettes found anew for every estimate are as good, but a single
    position that rounds otherwise on another machine gives other palettes.)

    Args:
        restore: R.
        z_t: Latents [B, GC, h, w] that share their palettes.
        palettes: Of every group, float32 [K, C].
        steps: Links of the whole chain.
        links: How many of them to run, at most steps - 1.
        progress: Called after each.

    Returns:
        What the next link starts with, and the entries that it passes for [B, G].
    """
    z = z_t
    for link in range(links):
        estimate = restore(z, passing(palettes, z, REACH * link / steps))
        z = z + (estimate - assign(estimate, palettes)) * (REACH / steps)
        if progress is not None:
            progress(link + 1, steps)
    return z, passing(palettes, z, REACH * links / steps)


def passing(palettes: Sequence[Tensor], z: Tensor, done: float) -> Tensor:
    """Return how many entries [B, G] a latent z passes for, so far (0..1) from its palettes."""
    entries = [len(palette) ** (1 - done) * MAX_ENTRIES**done for palette in palettes]
    return torch.tensor([entries], dtype=torch.float32, device=z.device).expand(len(z), -1)
