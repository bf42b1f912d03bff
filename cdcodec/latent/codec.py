"""A latent diffusion family as a codec: prior, compression and control around the walk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cdcodec import image
from cdcodec.codec import DecoderInfo, Decoding, IntArray, Latents, Pixels, Progress
from cdcodec.diffusion import noise, pictures, tiling
from cdcodec.diffusion.prediction import Denoiser, from_eps
from cdcodec.diffusion.schedules import scaled_linear
from cdcodec.entropy.context import MEAN_ONE
from cdcodec.entropy.tables import MAX_MAGNITUDE
from cdcodec.latent.walk import HYPER_STRIDE, Y_STRIDE, LatentWalk, y_shape
from cdcodec.nn.control import Control, controlled_noise
from cdcodec.nn.device import autocast
from cdcodec.nn.latent_diffusion import LATENT_STRIDE, LatentPrior
from cdcodec.nn.unet import predict_noise

TEXTURE = 0.65
"""How far z_0 of the small presets goes from z_c, the most faithful, to the chain's end.

The estimators with the best trade of distortion for naturalness lie on the line between the two
ends (Freirich et al. 2021, "A theory of the distortion-perception tradeoff in Wasserstein space").
On four photographs that are neither trained nor reported on (scikit-image's astronaut, coffee,
chelsea and rocket) LPIPS is better here than at the end at 0.1 and 0.2 bpp, and PSNR everywhere.
"""


class Compression(Protocol):
    """The networks of a weight set, small or the paper's, beside the prior; an nn.Module."""

    @property
    def control(self) -> Control:
        """The control network."""

    def gain(self, u: Tensor) -> Tensor:
        """Return the gains on y [B, M, 1, 1] at rate positions u [B] in 0..1."""

    def analyse(self, x: Tensor, features: Tensor, z_0: Tensor) -> Tensor:
        """Map an image [B, 3, H, W], its features and latent to y [B, M, H/16, W/16]."""

    def hyper_latent(self, y: Tensor, z_0: Tensor, u: Tensor) -> tuple[str, Tensor]:
        """Return the hyper latent's name in the walk and its integers [B, N, h/4, w/4]."""

    def planes(self, hyper: Tensor) -> Tensor:
        """Return what the networks see of those integers."""

    def synthesise(self, y_hat: Tensor, planes: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Map y_hat [B, M, h, w], h and w multiples of 4, and planes to (z_c, hint) at 1/8."""


@dataclass(frozen=True)
class Analysis:
    """A picture before a rate point is chosen.

    Attributes:
        y: Of the padded picture, [M, h, w].
        z_0: Its latent [C, 2h, 2w].
        rows: Rows of y that are coded, those that the picture itself reaches.
        columns: Likewise.
    """

    y: Tensor
    z_0: Tensor
    rows: int
    columns: int


class LatentCodec(ABC):
    """What codec.Codec asks for; a family says how it samples.

    Attributes:
        texture: See TEXTURE; 1 goes all the way.
    """

    decoders: Mapping[str, DecoderInfo]
    texture: ClassVar[float] = TEXTURE

    def __init__(
        self, prior: LatentPrior, network: Compression, walk: LatentWalk, device: torch.device
    ) -> None:
        self.prior = prior
        self.network = network
        self.walk = walk
        self.device = device
        self.schedule = scaled_linear()

    @abstractmethod
    def sample(
        self, denoise: Denoiser, z_c: Tensor, draw: Draw, decoding: Decoding, step: Progress
    ) -> Tensor:
        """Return z_0 [1, C, h, w] of a tile; decoding.steps is at least 1."""

    def pad(self, pixels: Pixels) -> Pixels:
        """Pad pixels [H, W, 3] on the right and bottom to the multiples that the networks take."""
        return image.pad(pixels, Y_STRIDE)

    def precision(self) -> torch.autocast:
        """Return a context for the networks to run in."""
        return autocast(self.device)

    @torch.inference_mode()
    def analyse(self, pixels: Pixels) -> Analysis:
        """Encode pixels [H, W, 3] up to what depends on the rate point."""

        def encode(x: Tensor) -> Tensor:
            with self.precision():
                features = self.prior.features(x)
                z_0 = self.prior.latent(features)
                y = self.network.analyse(x, features, z_0)
            return torch.cat([y.float(), F.pixel_unshuffle(z_0.float(), 2)], 1).cpu()

        values = pictures.analyse(encode, self.pad(pixels), Y_STRIDE, self.device)
        blocks = 4 * self.prior.latent_channels
        y, z_0 = torch.split(values, [len(values) - blocks, blocks])
        height, width = pixels.shape[:2]
        return Analysis(y, F.pixel_shuffle(z_0, 2), *y_shape(width, height))

    @torch.inference_mode()
    def quantise(self, analysis: object, point: int) -> Latents:
        """Apply the gains of a rate point to y and encode the hyper latent; see LatentWalk.code."""
        assert isinstance(analysis, Analysis)
        y, z_0 = (values.to(self.device)[None] for values in (analysis.y, analysis.z_0))
        u = self._position(point)
        name, hyper = self.network.hyper_latent(y, z_0, u)
        coded = y[0, :, : analysis.rows, : analysis.columns]
        return {
            name: _integers(hyper[0], MAX_MAGNITUDE),
            "y": _integers(coded * self.network.gain(u)[0] * MEAN_ONE, MAX_MAGNITUDE * MEAN_ONE),
        }

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
        """Decode in overlapping tiles that share one field of noise; 0 steps decode z_c itself."""
        assert decoding.steps is not None
        u = self._position(point)
        gain = self.network.gain(u)
        (hyper,) = (values for name, values in latents.items() if name != "y")
        rows, columns = (4 * extent for extent in hyper.shape[-2:])
        y_hat = _padded(latents["y"], rows, columns)

        def render(window: tiling.Tile, step: Progress) -> Tensor:
            y = pictures.crop(y_hat, window, Y_STRIDE, self.device) / (gain * MEAN_ONE)
            with self.precision():
                planes = self.network.planes(
                    pictures.crop(hyper, window, HYPER_STRIDE, self.device)
                )
                z_c, hint = self.network.synthesise(y, planes, u)
                z_0 = z_c = z_c.float()
                if decoding.steps:
                    assert decoding.guidance is not None
                    draw = self._draw(window, decoding)
                    denoise = self.denoiser(hint, decoding.guidance)
                    z_0 = self.sample(denoise, z_c, draw, decoding, step)
                    z_0 = torch.lerp(z_c, z_0, self.texture)
                return self.prior.decode(z_0)

        return pictures.synthesise(
            render,
            rows * Y_STRIDE,
            columns * Y_STRIDE,
            multiple=HYPER_STRIDE,
            tile=decoding.tile,
            steps=decoding.steps,
            progress=progress,
        )[:height, :width]

    def denoiser(self, hint: Tensor, guidance: float) -> Denoiser:
        """Bind hint and guidance to the U-Net: (z_t, n) to z_0 (RDEIC, paper 002, eq. 11)."""

        def eps(z_t: Tensor, n: int) -> Tensor:
            t = torch.full((len(z_t),), n, device=z_t.device)
            guided = controlled_noise(self.prior.unet, self.network.control, z_t, t, hint).float()
            if guidance == 1:  # the other half would be multiplied by zero
                return guided
            plain = predict_noise(self.prior.unet, z_t, t).float()
            return plain + guidance * (guided - plain)

        return from_eps(eps, self.schedule.alpha_bar)

    def _draw(self, window: tiling.Tile, decoding: Decoding) -> Draw:
        """Return what gives the k-th field of noise of a tile, [1, C, h, w]."""
        assert decoding.stochasticity is not None
        gamma, channels = decoding.stochasticity, self.prior.latent_channels
        top, left, height, width = (
            extent // LATENT_STRIDE
            for extent in (window.top, window.left, window.height, window.width)
        )

        def draw(number: int) -> Tensor:
            field = noise.gaussian(decoding.seed, top, left, height, width, channels, draw=number)
            return gamma * torch.from_numpy(field).to(self.device)[None]

        return draw

    def _position(self, point: int) -> Tensor:
        return torch.tensor([point / max(1, self.walk.rate_points - 1)], device=self.device)


class Draw(Protocol):
    """Gives fields of noise by number."""

    def __call__(self, number: int, /) -> Tensor:
        """Return field `number`."""


def _integers(values: Tensor, limit: int) -> IntArray:
    """Round values of any shape to integers within ±limit."""
    integers: IntArray = (
        values.round().clamp(-float(limit), float(limit)).to(torch.int32).cpu().numpy()
    )
    return integers


def _padded(y: IntArray, rows: int, columns: int) -> IntArray:
    """Replicate the border of y [M, h, w] on the right and bottom, to [M, rows, columns]."""
    return np.pad(y, ((0, 0), (0, rows - y.shape[1]), (0, columns - y.shape[2])), mode="edge")
