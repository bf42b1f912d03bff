"""Palette diffusion as a codec: networks around the walk (paper 000, fig. 3)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from cdcodec import image
from cdcodec.codec import DecoderInfo, Decoding, IntArray, Latents, Pixels, Progress
from cdcodec.diffusion import pictures, tiling
from cdcodec.families.palette.chain import Chain
from cdcodec.families.palette.degrade import walk_back
from cdcodec.families.palette.export import read
from cdcodec.families.palette.network import STRIDE, PaletteNetwork
from cdcodec.families.palette.walk import PaletteWalk
from cdcodec.nn.device import autocast, pick

COLD, ONE_SHOT, DIRECT = "cold", "oneshot", "direct"

STEPS = 4

MARGIN = 8
"""Positions of the restoration network's coarsest scale that it sees around a window. The small
one's receptive field reaches no further; that of the paper's size normalises over what it sees."""


@dataclass(frozen=True)
class Analysis:
    """A picture before a rate point is chosen.

    Attributes:
        chain: Its palettes and what becomes of them.
        index: Entries of the chain's start, int32 [G, rows, columns].
    """

    chain: Chain
    index: IntArray


class PaletteCodec:
    """A weight set of the family; see codec.Codec."""

    decoders: ClassVar[dict[str, DecoderInfo]] = {
        COLD: DecoderInfo("a chain of restorations (paper 000, eq. 7)", STEPS, min_steps=0),
        ONE_SHOT: DecoderInfo("one restoration (eq. 6)", 1, max_steps=1),
        DIRECT: DecoderInfo("the palettes' colours as they are", 0, min_steps=0, max_steps=0),
    }

    def __init__(self, network: PaletteNetwork, walk: PaletteWalk, device: torch.device) -> None:
        network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network: PaletteNetwork = network.eval().requires_grad_(False)
        self.walk = walk
        self.device = device

    @classmethod
    def load(cls, path: Path, walk: PaletteWalk, device: str) -> PaletteCodec:
        """Read a weight file.

        Raises:
            WeightsError: If names or shapes aren't those of its configuration.
            InputError: If the device isn't there.
        """
        return cls(read(path), walk, pick(device))

    @torch.inference_mode()
    def analyse(self, pixels: Pixels) -> Analysis:
        """Encode pixels [H, W, 3], and find palettes and chain."""

        def encode(x: Tensor) -> Tensor:
            with autocast(self.device):
                return self.network.encode(x).cpu()

        z = pictures.analyse(encode, image.pad(pixels, STRIDE), STRIDE, self.device)
        return Analysis(*self.walk.start(z.round().to(torch.int32).numpy()))

    def quantise(self, analysis: object, point: int) -> Latents:
        """Return palettes and indices of a rate point."""
        assert isinstance(analysis, Analysis)
        return self.walk.link(analysis.chain, analysis.index, point)

    @torch.inference_mode()
    def synthesise(
        self,
        latents: Latents,
        width: int,
        height: int,
        point: int,
        decoding: Decoding,
        progress: Progress | None = None,
    ) -> Pixels:
        """Restore the latent as a whole, since it has its palettes in common, and decode tiles."""
        steps = decoding.steps
        assert steps is not None
        pictures.check_tile(decoding.tile, STRIDE * self.network.multiple)
        config = self.network.config
        palettes = [latents[f"palette_{g}"] for g in range(config.groups)]
        z = _coloured(palettes, latents["index"]).to(self.device)
        entries = torch.tensor([list(map(len, palettes))], dtype=torch.float32, device=self.device)
        rows, columns = z.shape[-2:]
        windows = len(
            tiling.tiles(rows * STRIDE, columns * STRIDE, decoding.tile, pictures.OVERLAP, STRIDE)
        )

        def report(done: int, _total: int) -> None:
            if progress is not None:
                progress(done, steps + windows)

        z_0 = z
        restored = torch.tensor([steps > 0], device=self.device)
        if steps:

            def restore(z_t: Tensor, sizes: Tensor) -> Tensor:
                return self._restore(z_t, sizes, decoding.tile // STRIDE)

            total = sum(map(len, palettes))
            links = steps - 1
            z, at_link = walk_back(restore, z, entries, total, steps, config, links, report)
            z_0 = restore(z, at_link)
            report(steps, steps)

        def render(window: tiling.Tile, step: Progress) -> Tensor:
            at = np.s_[
                ...,
                window.top // STRIDE : (window.top + window.height) // STRIDE,
                window.left // STRIDE : (window.left + window.width) // STRIDE,
            ]
            with autocast(self.device):
                x_hat = self.network.decode(z_0[at], entries, restored)
            step(1, 1)
            return x_hat

        def decoded(done: int, _total: int) -> None:
            report(steps + done, 0)

        return pictures.synthesise(
            render,
            rows * STRIDE,
            columns * STRIDE,
            multiple=STRIDE,
            tile=decoding.tile,
            steps=1,
            progress=decoded,
        )[:height, :width]

    def _restore(self, z_t: Tensor, entries: Tensor, side: int) -> Tensor:
        """Run R on z_t [1, GC, h, w] in windows of so many positions, seamlessly."""
        rows, columns = z_t.shape[-2:]
        margin = MARGIN * self.network.multiple
        z_0 = torch.empty_like(z_t)
        for top in range(0, rows, side):
            for left in range(0, columns, side):
                above, before = min(top, margin), min(left, margin)
                seen = z_t[
                    ...,
                    top - above : top + side + margin,
                    left - before : left + side + margin,
                ]
                with autocast(self.device):
                    estimate = self.network.restore(seen, entries)
                bottom, right = min(top + side, rows), min(left + side, columns)
                z_0[..., top:bottom, left:right] = estimate[
                    ..., above : above + bottom - top, before : before + right - left
                ]
        return z_0


def _coloured(palettes: list[IntArray], index: IntArray) -> Tensor:
    """Return z_t, float32 [1, GC, rows, columns]."""
    planes = [
        palette[entry].transpose(2, 0, 1) for palette, entry in zip(palettes, index, strict=True)
    ]
    return torch.from_numpy(np.concatenate(planes).astype(np.float32))[None]
