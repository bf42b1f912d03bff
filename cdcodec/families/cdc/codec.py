"""The small presets of CDC as a codec: networks around the walk."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from cdcodec import image
from cdcodec.codec import Decoding, Latents, Pixels, Progress
from cdcodec.diffusion import pictures, schedules, tiling
from cdcodec.diffusion.prediction import Denoiser, from_x0
from cdcodec.entropy.tables import MAX_MAGNITUDE
from cdcodec.families.cdc.decoders import SMALL
from cdcodec.families.cdc.decoding import sample
from cdcodec.families.cdc.export import read
from cdcodec.families.cdc.network import CdcNetwork
from cdcodec.families.cdc.walk import MEAN_ONE, Y_STRIDE, CdcWalk
from cdcodec.nn.device import autocast, pick

TEXTURE = 0.65
"""How far a picture goes from the chain's first estimate, the most faithful, to its last.

The estimators with the best trade of distortion for naturalness lie on the line between the two
ends (Freirich et al. 2021, "A theory of the distortion-perception tradeoff in Wasserstein space").
Chosen on four photographs that are neither trained nor reported on (scikit-image's astronaut,
coffee, chelsea and rocket): up to here LPIPS falls as far as it does; beyond, all else gets worse.
"""


class FirstEstimate:
    """A denoiser that remembers its first x_0 [B, 3, H, W]."""

    def __init__(self, denoise: Denoiser) -> None:
        self.denoise = denoise
        self.x_0: Tensor | None = None

    def __call__(self, x_t: Tensor, n: int) -> Tensor:
        """Map (x_t, n) to x_0."""
        x_0 = self.denoise(x_t, n)
        if self.x_0 is None:
            self.x_0 = x_0
        return x_0


class CdcCodec:
    """A small CDC preset with its weights loaded; see codec.Codec."""

    decoders = SMALL

    def __init__(self, network: CdcNetwork, walk: CdcWalk, device: torch.device) -> None:
        self.network: CdcNetwork = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.walk = walk
        self.device = device
        self.schedule = schedules.cosine(network.config.train_steps)

    @classmethod
    def load(cls, path: Path, walk: CdcWalk, device: str) -> CdcCodec:
        """Read a weight file.

        Raises:
            WeightsError: If names or shapes aren't those of its configuration.
            InputError: If the device isn't there.
        """
        return cls(read(path), walk, pick(device))

    @torch.inference_mode()
    def analyse(self, pixels: Pixels) -> Tensor:
        """Run g_a on pixels [H, W, 3]; returns y [M, h, w] on the CPU."""
        return pictures.analyse(
            self.network.g_a, image.pad(pixels, Y_STRIDE), Y_STRIDE, self.device
        )

    @torch.inference_mode()
    def quantise(self, analysis: object, point: int) -> Latents:
        """Apply the gains of a rate point to y and run h_a; see CdcWalk.code."""
        assert isinstance(analysis, Tensor)
        gain, _ = self.network.gains(self._position(point))
        y = analysis.to(self.device)[None] * gain
        z = self.network.h_a(y)[0].round()
        limit = float(MAX_MAGNITUDE)
        return {
            "z": z.clamp(-limit, limit).to(torch.int32).cpu().numpy(),
            "y": (y[0] * MEAN_ONE).round().clamp(-limit * MEAN_ONE, limit * MEAN_ONE)
            .to(torch.int32).cpu().numpy(),
        }  # fmt: skip

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
        """Decode y_hat in overlapping tiles that share one field of noise."""
        u = self._position(point)
        gain, _ = self.network.gains(u)
        y_hat = latents["y"]
        assert decoding.steps is not None
        indices = schedules.trailing_timesteps(decoding.steps, len(self.schedule))

        def render(window: tiling.Tile, step: Progress) -> Tensor:
            y = pictures.crop(y_hat, window, Y_STRIDE, self.device) / (gain * MEAN_ONE)
            with autocast(self.device):
                denoise = FirstEstimate(self.denoiser(y, u))
                x = sample(denoise, self.schedule, indices, window, decoding, self.device, step)
            assert denoise.x_0 is not None
            return torch.lerp(denoise.x_0, x, TEXTURE)

        rows, columns = y_hat.shape[1:]
        return pictures.synthesise(
            render,
            rows * Y_STRIDE,
            columns * Y_STRIDE,
            multiple=Y_STRIDE,
            tile=decoding.tile,
            steps=decoding.steps,
            progress=progress,
        )[:height, :width]

    def denoiser(self, y_hat: Tensor, u: Tensor) -> Denoiser:
        """Bind context and rate to the denoiser: (x_t, n) to x_0 in -1..1, clamped."""
        pyramid = self.network.pyramid(y_hat, u)
        alpha_bar = self.schedule.alpha_bar

        def network(x_t: Tensor, n: int) -> Tensor:
            level = torch.full_like(u, n / self.network.config.train_steps)
            signal = torch.full_like(u, float(alpha_bar[n]) ** 0.5)
            x_0 = self.network.predict(x_t, level, signal, pyramid, u)
            return x_0.float()

        return from_x0(network, limit=1.0)

    def _position(self, point: int) -> Tensor:
        return torch.tensor([point / max(1, self.walk.rate_points - 1)], device=self.device)
