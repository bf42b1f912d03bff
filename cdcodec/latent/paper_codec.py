"""What both families' codecs do differently on Stable Diffusion, and how they are loaded."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch

from cdcodec import weights
from cdcodec.codec import Pixels
from cdcodec.errors import WeightsError
from cdcodec.latent.codec import LatentCodec
from cdcodec.latent.paper_network import PaperNetwork
from cdcodec.latent.walk import HYPER_STRIDE, LatentWalk
from cdcodec.nn.device import pick
from cdcodec.nn.stable_diffusion import StableDiffusion
from cdcodec.nn.stable_diffusion_config import SdConfig

PRIOR = "sd21-base"
"""The weight set of Stable Diffusion, which only the user can provide."""

Network = TypeVar("Network", bound=PaperNetwork[Any])


class PaperCodec(LatentCodec):
    """A model of the authors on Stable Diffusion; a family's own codec comes next to it.

    It has one rate. Stable Diffusion normalises over the whole of what it sees and attends to all
    of it, so that a tile of a large picture comes out slightly different from what it would be
    within the whole: in encoding, where tiles have 1,024 pixels and a margin, as in decoding, where
    their seams are blended.
    """

    texture: ClassVar = 1.0

    def pad(self, pixels: Pixels) -> Pixels:
        """Pad with zeros to multiples of 64, as the authors do."""
        height, width = pixels.shape[:2]
        margins = (0, -height % HYPER_STRIDE), (0, -width % HYPER_STRIDE), (0, 0)
        return np.pad(pixels, margins)

    def precision(self) -> torch.autocast:
        """Let every network compute in its own precision: Stable Diffusion chooses for itself.

        The compression networks stay in float32, which the authors trained and evaluate them in.
        """
        return torch.autocast(self.device.type, enabled=False)


def load(
    network: Network, walk: LatentWalk, device: str
) -> tuple[StableDiffusion, Network, LatentWalk, torch.device]:
    """Put a network on its device, beside Stable Diffusion.

    CDCODEC_COMPILE=1 in the environment compiles the U-Net if the device is a CUDA one: the first
    picture then waits for that. What it brings hasn't been measured.

    Raises:
        WeightsError: If Stable Diffusion's weights are missing or damaged, or diffusers is.
        InputError: If the device isn't there.
    """
    where = pick(device)
    try:
        paths = weights.resolve(PRIOR)
    except WeightsError as error:
        raise WeightsError(
            f"these weights need those of Stable Diffusion: {error}",
            hint=f"cdcodec weights show {PRIOR} says how to get them",
        ) from error
    prior = load_prior(tuple(paths), network.sizes.prior, where, is_compiled(where))
    network.place(where, prior.unet.dtype, prior.unet.context)
    return prior, network.requires_grad_(False).eval(), walk, where


@lru_cache(maxsize=1)
def load_prior(
    paths: tuple[Path, ...], sizes: SdConfig, device: torch.device, compiled: bool
) -> StableDiffusion:
    """Load Stable Diffusion once for all models on it: it is ten times as large as they are.

    Raises:
        WeightsError: A file is damaged or of another model; diffusers isn't installed.
    """
    unet, vae, prompt = paths
    return StableDiffusion.load(unet, vae, prompt, sizes).place(device, compiled=compiled)


def is_compiled(device: torch.device) -> bool:
    """Tell whether the U-Net is to be compiled there; see load."""
    return device.type == "cuda" and os.environ.get("CDCODEC_COMPILE") == "1"
