"""MS-ILLM as a codec of its own, for converted checkpoints of the authors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cdcodec.codec import Decoding, IntArray, Latents, Pixels, Progress
from cdcodec.diffusion import pictures, tiling
from cdcodec.entropy.tables import MAX_MAGNITUDE
from cdcodec.families.cgdm import msillm_export
from cdcodec.families.cgdm.decoders import MSILLM
from cdcodec.families.cgdm.msillm_network import MsIllmNetwork
from cdcodec.families.cgdm.msillm_walk import MEAN_ONE, Y_STRIDE, Z_STRIDE, MsIllmWalk, y_shape
from cdcodec.nn.device import pick


class MsIllmCodec:
    """An MS-ILLM with its weights loaded; see codec.Codec.

    It has one rate and no diffusion: its picture is what CGDM starts from. The networks run in
    float32, as the authors' do.

    The authors code y for all of the padded image. Here only the samples that the image reaches are
    coded, and the decoder sees the picture end with them, as its training crops did.
    """

    decoders = MSILLM

    def __init__(self, network: MsIllmNetwork, walk: MsIllmWalk, device: torch.device) -> None:
        self.network: MsIllmNetwork = (
            network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            .requires_grad_(False)
            .eval()
        )
        self.walk = walk
        self.device = device

    @classmethod
    def load(cls, path: Path, walk: MsIllmWalk, device: str) -> MsIllmCodec:
        """Read a weight file.

        Raises:
            WeightsError: If names or shapes aren't those of its configuration.
            InputError: If the device isn't there.
        """
        return cls(msillm_export.read(path), walk, pick(device))

    @torch.inference_mode()
    def analyse(self, pixels: Pixels) -> Latents:
        """Run both encoders on pixels [H, W, 3]; see MsIllmWalk.code for what comes out."""
        network = self.network
        height, width = pixels.shape[:2]

        def encode(x: Tensor) -> Tensor:
            y: Tensor = network.encoder(x * 0.5 + 0.5)
            return y

        y = pictures.analyse(encode, pad(pixels), Y_STRIDE, self.device)
        z = network.hyper_analysis(y.to(self.device)[None])[0] - network.hyper_bottleneck.medians
        rows, columns = y_shape(width, height)
        return {
            "z": _integers(z, MAX_MAGNITUDE),
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
        """Decode y_hat in overlapping tiles; there are no steps to report progress of."""
        y_hat = latents["y"]

        def render(window: tiling.Tile, step: Progress) -> Tensor:
            y = pictures.crop(y_hat, window, Y_STRIDE, self.device) / MEAN_ONE
            x: Tensor = self.network.decoder(y)
            return x * 2 - 1

        rows, columns = y_hat.shape[1:]
        return pictures.synthesise(
            render,
            rows * Y_STRIDE,
            columns * Y_STRIDE,
            multiple=Y_STRIDE,
            tile=decoding.tile,
            steps=0,
            progress=progress,
        )[:height, :width]


def pad(pixels: Pixels) -> Pixels:
    """Pad pixels [H, W, 3] on the right and bottom to multiples of 64.

    By reflection, as the authors do; where there is too little to reflect, which they refuse, the
    last row or column is repeated.
    """
    for axis, extent in enumerate(pixels.shape[:2]):
        margin = -extent % Z_STRIDE
        margins = [(0, margin if each == axis else 0) for each in range(pixels.ndim)]
        pixels = np.pad(pixels, margins, mode="reflect" if margin < extent else "edge")
    return pixels


def _integers(values: Tensor, limit: int) -> IntArray:
    """Round values of any shape to integers within ±limit."""
    integers: IntArray = np.rint(values.cpu().numpy()).clip(-limit, limit).astype(np.int32)
    return integers
