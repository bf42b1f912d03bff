"""The paper's networks as a codec, for converted checkpoints of the authors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cdcodec import image
from cdcodec.codec import Decoding, IntArray, Latents, Pixels, Progress
from cdcodec.diffusion import pictures, schedules, tiling
from cdcodec.entropy.tables import MAX_MAGNITUDE
from cdcodec.families.cdc import paper_export
from cdcodec.families.cdc.decoders import PAPER
from cdcodec.families.cdc.decoding import sample
from cdcodec.families.cdc.paper import STRIDE, PaperCdc
from cdcodec.families.cdc.walk import MEAN_ONE, Y_STRIDE, CdcWalk, y_shape
from cdcodec.nn.device import pick


class PaperCodec:
    """A model at the paper's scale with its weights loaded; see codec.Codec.

    It has one rate. The networks run in float32, as the authors' do: bfloat16 tells too few of the
    8,193 times apart.
    """

    decoders = PAPER

    def __init__(self, network: PaperCdc, walk: CdcWalk, device: torch.device) -> None:
        self.network: PaperCdc = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.walk = walk
        self.device = device

    @classmethod
    def load(cls, path: Path, walk: CdcWalk, device: str) -> PaperCodec:
        """Read a weight file.

        Raises:
            WeightsError: If names or shapes aren't those of its configuration.
            InputError: If the device isn't there.
        """
        return cls(paper_export.read(path), walk, pick(device))

    @torch.inference_mode()
    def analyse(self, pixels: Pixels) -> Latents:
        """Run g_a and h_a on pixels [H, W, 3]; see CdcWalk.code for what comes out."""
        height, width = pixels.shape[:2]
        compressor = self.network.compressor
        y = pictures.analyse(compressor.g_a, image.pad(pixels, STRIDE), Y_STRIDE, self.device)
        z = compressor.h_a(y[None].to(self.device)) - compressor.prior.medians
        rows, columns = y_shape(width, height)
        return {
            "z": _integers(z[0], MAX_MAGNITUDE),
            "y": _integers(y[:, :rows, :columns] * MEAN_ONE, MAX_MAGNITUDE * MEAN_ONE),
        }

    def quantise(self, analysis: object, point: int) -> Latents:
        """Return what analyse did, as there is only one rate point."""
        assert isinstance(analysis, dict)
        return analysis

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
        network = self.network
        y_hat = self._padded(latents)
        assert decoding.steps is not None
        indices = schedules.timesteps(decoding.steps, len(network.schedule))

        def render(window: tiling.Tile, step: Progress) -> Tensor:
            y = pictures.crop(y_hat, window, Y_STRIDE, self.device) / MEAN_ONE
            denoise = network.denoiser(network.compressor.context(y))
            return sample(denoise, network.schedule, indices, window, decoding, self.device, step)

        rows, columns = y_hat.shape[1:]
        return pictures.synthesise(
            render,
            rows * Y_STRIDE,
            columns * Y_STRIDE,
            multiple=STRIDE,
            tile=decoding.tile,
            steps=decoding.steps,
            progress=progress,
        )[:height, :width]

    def _padded(self, latents: Latents) -> IntArray:
        """Return y_hat [M, 4h, 4w] for z [N, h, w]; where y wasn't coded, it is at its mean."""
        y_hat = latents["y"]
        channels, rows, columns = y_hat.shape
        z_rows, z_columns = latents["z"].shape[1:]
        if (rows, columns) == (4 * z_rows, 4 * z_columns):
            return y_hat
        padded = self.walk.h_s(latents["z"])[:channels]
        padded[:, :rows, :columns] = y_hat
        return padded


def _integers(values: Tensor, limit: int) -> IntArray:
    """Round values of any shape to integers within ±limit."""
    integers: IntArray = np.rint(values.cpu().numpy()).clip(-limit, limit).astype(np.int32)
    return integers
