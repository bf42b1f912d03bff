"""CDC as a codec: networks around the walk, tiles for large pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdcodec import image
from cdcodec.codec import DecoderInfo, Decoding, Latents, Pixels, Progress
from cdcodec.diffusion import noise, samplers, schedules, tiling
from cdcodec.diffusion.prediction import Denoiser, from_x0
from cdcodec.entropy.tables import MAX_MAGNITUDE
from cdcodec.families.cdc.export import read
from cdcodec.families.cdc.network import CdcNetwork
from cdcodec.families.cdc.walk import MEAN_ONE, Y_STRIDE, CdcWalk
from cdcodec.nn.device import autocast, pick

ANALYSIS_TILE = 1024
ANALYSIS_MARGIN = 128
"""Pixels around a tile that g_a sees beside it: its receptive field reaches 124."""

OVERLAP = 128
"""Pixels that neighbouring tiles share when pictures are decoded."""

DECODERS = {
    "ddim": DecoderInfo("deterministic steps from noise (paper 001, eq. 7)", 5, stochasticity=0.8),
    "ddpm": DecoderInfo("fresh noise in every step", 5, stochasticity=0.8),
}


class CdcCodec:
    """A small CDC preset with its weights loaded; see codec.Codec."""

    decoders = DECODERS

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
        """Run g_a on pixels [H, W, 3], tile by tile; returns y [M, h, w] on the CPU."""
        padded = image.pad(pixels, Y_STRIDE)
        height, width = padded.shape[:2]
        y = torch.empty(self.network.config.y_channels, height // Y_STRIDE, width // Y_STRIDE)
        for top in range(0, height, ANALYSIS_TILE):
            for left in range(0, width, ANALYSIS_TILE):
                bottom, right = min(top + ANALYSIS_TILE, height), min(left + ANALYSIS_TILE, width)
                above, before = min(top, ANALYSIS_MARGIN), min(left, ANALYSIS_MARGIN)
                window = padded[
                    top - above : bottom + ANALYSIS_MARGIN, left - before : right + ANALYSIS_MARGIN
                ]
                tile = self.network.g_a(self._to_tensor(window))[0]
                rows = slice(top // Y_STRIDE, bottom // Y_STRIDE)
                columns = slice(left // Y_STRIDE, right // Y_STRIDE)
                y[:, rows, columns] = tile[
                    :,
                    above // Y_STRIDE : (above + bottom - top) // Y_STRIDE,
                    before // Y_STRIDE : (before + right - left) // Y_STRIDE,
                ]
        return y

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
        rows, columns = y_hat.shape[1:]
        windows = tiling.tiles(
            rows * Y_STRIDE, columns * Y_STRIDE, decoding.tile, OVERLAP, Y_STRIDE
        )
        assert decoding.steps is not None
        total = decoding.steps * len(windows)
        done = 0

        def step(_done: int, _total: int) -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, total)

        def render(window: tiling.Tile) -> NDArray[np.float32]:
            at = np.s_[
                :,
                window.top // Y_STRIDE : (window.top + window.height) // Y_STRIDE,
                window.left // Y_STRIDE : (window.left + window.width) // Y_STRIDE,
            ]
            y = torch.from_numpy(y_hat[at].astype(np.float32)).to(self.device)[None]
            x = self._sample(y / (gain * MEAN_ONE), u, window, decoding, step)
            return (x[0] * 0.5 + 0.5).float().cpu().numpy()

        out = np.empty((rows * Y_STRIDE, columns * Y_STRIDE, 3), np.uint8)
        tiling.blend(windows, render, out)
        return out[:height, :width]

    def _sample(
        self, y_hat: Tensor, u: Tensor, window: tiling.Tile, decoding: Decoding, step: Progress
    ) -> Tensor:
        """Return x_0 [1, 3, H, W] in -1..1 of one tile."""
        assert decoding.steps is not None
        assert decoding.stochasticity is not None
        indices = schedules.timesteps(decoding.steps, self.network.config.train_steps)
        with autocast(self.device):
            denoise = self.denoiser(y_hat, u)

            def draw(number: int) -> Tensor:
                field = noise.gaussian(
                    decoding.seed,
                    window.top,
                    window.left,
                    window.height,
                    window.width,
                    3,
                    draw=number,
                )
                return torch.from_numpy(field).to(self.device)[None]

            start = decoding.stochasticity * draw(0)
            if decoding.decoder == "ddpm":
                gamma = decoding.stochasticity
                return samplers.ddpm(
                    denoise,
                    start,
                    indices,
                    self.schedule.alpha_bar,
                    lambda number: gamma * draw(number),
                    step,
                )
            return samplers.ddim(denoise, start, indices, self.schedule.alpha_bar, step)

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

    def _to_tensor(self, pixels: Pixels) -> Tensor:
        x = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device)
        x = x.permute(2, 0, 1)[None].float() / 127.5 - 1
        return x.contiguous(memory_format=torch.channels_last)
