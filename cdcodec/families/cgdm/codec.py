"""CGDM as a codec: a base codec, and a post-processor on what it decodes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from cdcodec import image
from cdcodec.codec import Codec, DecoderInfo, Decoding, IntArray, Latents, Pixels, Progress
from cdcodec.diffusion import noise, pictures, samplers, schedules, tiling
from cdcodec.families.cgdm import tuning
from cdcodec.families.cgdm.base import decode_base
from cdcodec.families.cgdm.config import TEXTURE, TRAIN_STEPS
from cdcodec.families.cgdm.decoders import SMALL
from cdcodec.families.cgdm.export import read
from cdcodec.families.cgdm.network import CgdmNetwork
from cdcodec.families.cgdm.walk import CgdmWalk
from cdcodec.nn.device import autocast, pick

PATCH = 256
"""Side in pixels of the patches that are restored one by one, and of the one tile of noise."""

OVERLAP = 64
"""Pixels that patches share: about as far as a network of this size sees. The paper has 8 at
either edge."""


class CgdmCodec:
    """A post-processor with its weights and base loaded; see codec.Codec, Describing, Enhancing."""

    decoders: ClassVar[Mapping[str, DecoderInfo]] = SMALL

    def __init__(
        self, network: CgdmNetwork, walk: CgdmWalk, base: Codec, device: torch.device
    ) -> None:
        network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network: CgdmNetwork = network.eval().requires_grad_(False)
        self.walk = walk
        self.base = base
        self.device = device
        self.schedule = schedules.cosine(TRAIN_STEPS)

    @classmethod
    def load(cls, path: Path, walk: CgdmWalk, device: str, base: Codec) -> CgdmCodec:
        """Read a weight file.

        Raises:
            WeightsError: If names or shapes aren't those of its configuration.
            InputError: If the device isn't there.
        """
        return cls(read(path), walk, base, pick(device))

    def analyse(self, pixels: Pixels) -> object:
        """Run the base's analysis."""
        return self.base.analyse(pixels)

    def quantise(self, analysis: object, point: int) -> Latents:
        """Return the base's latents."""
        return self.base.quantise(analysis, point)

    def describe(
        self,
        pixels: Pixels,
        latents: Latents,
        point: int,
        tune: int,
        progress: Progress | None = None,
    ) -> Latents:
        """Make the syntax vector of pixels [H, W, 3]; see codec.Describing."""
        height, width = pixels.shape[:2]
        decoded = decode_base(self.base, latents, width, height, point)
        return {"syntax": self._syntax(pixels, decoded, tune, progress)}

    def synthesise(
        self,
        latents: Latents,
        width: int,
        height: int,
        point: int,
        decoding: Decoding,
        progress: Progress | None = None,
    ) -> Pixels:
        """Decode the base's picture and restore it; with 0 steps it is the base's picture.

        Its patches have a size of their own; decoding.tile is an upper limit, which they keep.
        """
        pictures.check_tile(decoding.tile, self.network.config.stride)
        decoded = decode_base(self.base, latents, width, height, point)
        return self._restore(decoded, latents["syntax"], decoding, progress)

    def describe_picture(
        self, original: Pixels, decoded: Pixels, tune: int, progress: Progress | None = None
    ) -> bytes:
        """Return a description of an original; see codec.Enhancing and CgdmWalk.seal."""
        syntax = self._syntax(original, decoded, tune, progress)
        return self.walk.seal(syntax)

    def enhance(
        self,
        decoded: Pixels,
        description: bytes,
        decoding: Decoding,
        progress: Progress | None = None,
    ) -> Pixels:
        """Restore another codec's picture [H, W, 3]; see codec.Enhancing."""
        syntax = self.walk.unseal(description)
        return self._restore(decoded, syntax, decoding, progress)

    @torch.inference_mode()
    def _restore(
        self, decoded: Pixels, syntax: IntArray, decoding: Decoding, progress: Progress | None
    ) -> Pixels:
        """Run the chain patch by patch; all start from the same tile of noise (sec. 3.4)."""
        assert decoding.steps is not None
        if decoding.steps == 0:
            return decoded
        height, width = decoded.shape[:2]
        stride = self.network.config.stride
        padded = image.pad(decoded, stride)
        s = torch.from_numpy(syntax.astype(np.float32)).to(self.device)[None]
        assert decoding.stochasticity is not None
        start = decoding.stochasticity * self._noise_tile(decoding.seed)
        indices = schedules.timesteps(decoding.steps, TRAIN_STEPS)

        def render(window: tiling.Tile, step: Progress) -> Tensor:
            bottom, right = window.top + window.height, window.left + window.width
            x_tilde = pictures.to_tensor(
                padded[window.top : bottom, window.left : right], self.device
            )
            x_t = tuning.repeated(start, window.top, window.left, window.height, window.width)
            with autocast(self.device):
                denoise = tuning.denoiser(self.network, x_tilde, s)
                x_0 = samplers.ddim(denoise, x_t, indices, self.schedule.alpha_bar, step)
            return torch.lerp(x_tilde, x_0, TEXTURE)

        return pictures.synthesise(
            render,
            *padded.shape[:2],
            multiple=stride,
            tile=PATCH,
            overlap=OVERLAP,
            steps=decoding.steps,
            progress=progress,
        )[:height, :width]

    def _noise_tile(self, seed: int) -> Tensor:
        return torch.from_numpy(noise.gaussian(seed, 0, 0, PATCH, PATCH, 3)).to(self.device)[None]

    def _syntax(
        self, original: Pixels, decoded: Pixels, tune: int, progress: Progress | None
    ) -> IntArray:
        s = tuning.generate(self.network.syntax, original, decoded, self.device)
        shrink = self.walk.syntax.shrink
        if not tune:
            return shrink(s)
        tuner = tuning.choose_patches(
            self.network, self.schedule, original, decoded, self._noise_tile(seed=0)
        )
        return tuning.tune(tuner, s, tune, shrink, progress)
