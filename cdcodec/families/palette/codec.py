"""Palette diffusion as a codec: networks around the walk (paper 000, fig. 3)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from cdcodec import image
from cdcodec.codec import DecoderInfo, Decoding, IntArray, Latents, Pixels, Progress
from cdcodec.diffusion import pictures, tiling
from cdcodec.errors import WeightsError
from cdcodec.families.palette.decoders import DECODERS
from cdcodec.families.palette.degrade import passing, walk_back
from cdcodec.families.palette.export import read
from cdcodec.families.palette.ladder import Ladder
from cdcodec.families.palette.network import PaletteNetwork
from cdcodec.families.palette.walk import STRIDE, PaletteWalk
from cdcodec.nn.device import autocast, pick

BORDER = 5
"""Positions that a picture is mirrored beyond its edges before it is encoded, as far as E sees: it
takes what isn't there for grey, which would cost bits even if all of the picture is alike."""


class PaletteCodec:
    """A weight set of the family; see codec.Codec."""

    decoders: ClassVar[Mapping[str, DecoderInfo]] = DECODERS

    def __init__(self, network: PaletteNetwork, walk: PaletteWalk, device: torch.device) -> None:
        network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network: PaletteNetwork = network.eval().requires_grad_(False)
        self.walk = walk
        self.device = device

    @classmethod
    def load(cls, path: Path, walk: PaletteWalk, device: str) -> PaletteCodec:
        """Read a weight file.

        Raises:
            WeightsError: If names or shapes aren't those of its configuration, or that isn't the
                walk's.
            InputError: If the device isn't there.
        """
        network = read(path)
        config = network.config
        if (config.groups, config.channels) != (walk.groups, walk.channels):
            raise WeightsError(f"weights {path.name} have other palettes than their networks")
        return cls(network, walk, pick(device))

    @torch.inference_mode()
    def analyse(self, pixels: Pixels) -> Ladder:
        """Encode pixels [H, W, 3], and find palettes.

        Raises:
            InputError: If the picture is too large for them.
        """

        def encode(x: Tensor) -> Tensor:
            with autocast(self.device):
                return self.network.encode(x).cpu()

        beyond = BORDER * STRIDE
        around = (beyond, beyond), (beyond, beyond), (0, 0)
        mirrored = np.pad(image.pad(pixels, STRIDE), around, "symmetric")
        z = pictures.analyse(encode, mirrored, STRIDE, self.device)
        z = z[:, BORDER:-BORDER, BORDER:-BORDER]
        return self.walk.start(z.round().to(torch.int32).numpy())

    def quantise(self, analysis: object, point: int) -> Latents:
        """Return palettes and indices of a rate point."""
        assert isinstance(analysis, Ladder)
        return self.walk.latents_at(analysis, point)

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
        """Restore and decode in overlapping tiles."""
        steps = decoding.steps
        assert steps is not None
        config, multiple = self.network.config, self.network.multiple
        palettes = [latents[f"palette_{g}"] for g in range(config.groups)]
        z = _padded(_coloured(palettes, latents["index"]), multiple)
        colours = [torch.from_numpy(p.astype(np.float32)).to(self.device) for p in palettes]
        restored = torch.tensor([steps > 0], device=self.device)

        def restore(z_t: Tensor, entries: Tensor) -> Tensor:
            with autocast(self.device):
                return self.network.restore(z_t, entries)

        def render(window: tiling.Tile, step: Progress) -> Tensor:
            z_t = pictures.crop(z, window, STRIDE, self.device)
            entries = passing(colours, z_t, 0.0)
            if steps:
                z_t, at_link = walk_back(restore, z_t, colours, steps, steps - 1, step)
                z_t = restore(z_t, at_link)
                step(steps, steps)
            with autocast(self.device):
                return self.network.decode(z_t, entries, restored)

        return pictures.synthesise(
            render,
            z.shape[1] * STRIDE,
            z.shape[2] * STRIDE,
            multiple=multiple * STRIDE,
            tile=decoding.tile,
            steps=steps,
            progress=progress,
        )[:height, :width]


def _coloured(palettes: list[IntArray], index: IntArray) -> IntArray:
    """Return z_t, int32 [GC, rows, columns]."""
    planes = [
        palette[entry].transpose(2, 0, 1) for palette, entry in zip(palettes, index, strict=True)
    ]
    return np.concatenate(planes)


def _padded(z: IntArray, multiple: int) -> IntArray:
    """Replicate the border of z [GC, h, w] on the right and bottom, to multiples of so many."""
    below, right = (-extent % multiple for extent in z.shape[1:])
    return np.pad(z, ((0, 0), (0, below), (0, right)), mode="edge")
