"""Stable Diffusion 2.1-base as a latent prior; its networks are those of diffusers.

The text is always the empty prompt, whose embedding is a file of its own, see
`stable_diffusion_prompt`: no text encoder is needed to encode or decode.

    x ─► encoder up to its last activation ─► · 0.18215 = features ─► latent ─► z_0
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cdcodec.errors import WeightsError
from cdcodec.nn import published
from cdcodec.nn import stable_diffusion_names as names
from cdcodec.nn.device import has_fast_bfloat16
from cdcodec.nn.stable_diffusion_config import SD21_BASE, SdConfig
from cdcodec.nn.stable_diffusion_unet import SdUnet, diffusers_module

SCALE = 0.18215
"""What the autoencoder's latent is multiplied with, to have about unit variance."""

UNET_FILE = "unet/diffusion_pytorch_model.safetensors"
VAE_FILE = "vae/diffusion_pytorch_model.safetensors"
PROMPT_FILE = "empty_prompt.safetensors"
PROMPT_TENSOR = "empty_prompt"

_HINT = "cdcodec weights show sd21-base says where they come from"


class StableDiffusion(nn.Module):
    """Stable Diffusion as a latent_diffusion.LatentPrior; frozen.

    Images are [B, 3, H, W] with H and W multiples of 64; the autoencoder alone takes those of 8.
    """

    def __init__(self, unet: SdUnet, vae: nn.Module) -> None:
        super().__init__()
        self.unet = unet
        self.vae: Any = vae
        self.requires_grad_(False).eval()

    @classmethod
    def open(cls, folder: Path) -> StableDiffusion:
        """Read a folder in the layout of diffusers, with the empty prompt's embedding beside.

        It has unet/ and vae/, each with config.json and diffusion_pytorch_model.safetensors, and
        empty_prompt.safetensors; see stable_diffusion_prompt.

        Raises:
            WeightsError: A file is missing, damaged or of another model; diffusers isn't installed.
        """
        files = folder / UNET_FILE, folder / VAE_FILE, folder / PROMPT_FILE
        return cls.load(*files, SdConfig.read(folder))

    @classmethod
    def load(
        cls, unet: Path, vae: Path, prompt: Path, config: SdConfig = SD21_BASE
    ) -> StableDiffusion:
        """Read three files in safetensors, with the names of diffusers.

        Raises:
            WeightsError: A file is missing, damaged or of another model; diffusers isn't installed.
        """
        context = _read(prompt, "the empty prompt").get(PROMPT_TENSOR)
        if context is None or context.shape != (1, 77, config.context):
            raise WeightsError(f"{prompt} is no embedding of the empty prompt", hint=_HINT)
        network, autoencoder = unet_network(config), vae_network(config)
        tensors = _read(unet, "the U-Net of Stable Diffusion")
        state = names.matched(tensors, network.state_dict(), "Stable Diffusion U-Net")
        network.load_state_dict(state, assign=True)
        tensors = names.renewed(_read(vae, "the autoencoder of Stable Diffusion"))
        expected = autoencoder.state_dict()
        state = names.matched(tensors, expected, "Stable Diffusion autoencoder")
        autoencoder.load_state_dict(state, assign=True)
        rows = SdUnet(network)
        rows.bind(context)
        return cls(rows, autoencoder)

    def place(
        self, device: torch.device, dtype: torch.dtype | None = None, *, compiled: bool = False
    ) -> StableDiffusion:
        """Move to a device, and return self.

        The weights of the U-Net, which are nearly all, become bfloat16 where that is fast. Those of
        the autoencoder stay float32: features and latent are exact in it, and decode computes in
        bfloat16 only up to its last layer.

        Args:
            device: Where to.
            dtype: Of the U-Net, instead of the one that is fast.
            compiled: Compile the U-Net with torch.compile; it takes a minute at the first use.
        """
        if dtype is None:
            dtype = torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
        self.unet.place(device, dtype)
        self.vae.to(device=device, memory_format=torch.channels_last)
        if compiled:
            self.unet.compile()
        return self

    @property
    def latent_channels(self) -> int:
        """See LatentPrior; 4."""
        channels: int = self.vae.post_quant_conv.in_channels
        return channels

    @property
    def feature_channels(self) -> int:
        """See LatentPrior; 512."""
        channels: int = self.vae.encoder.conv_out.in_channels
        return channels

    def features(self, x: Tensor) -> Tensor:
        """See LatentPrior: the encoder's last activation times 0.18215, as in the authors' code."""
        encoder = self.vae.encoder
        with torch.autocast(x.device.type, enabled=False):
            h = encoder.conv_in(x.float())
            for block in encoder.down_blocks:
                h = block(h)
            h = encoder.conv_act(encoder.conv_norm_out(encoder.mid_block(h)))
        return SCALE * h  # type: ignore[no-any-return]

    def latent(self, features: Tensor) -> Tensor:
        """See LatentPrior: the mode of the latent's distribution times 0.18215.

        The layers have biases, so that the factor of the features is taken away before them.
        """
        with torch.autocast(features.device.type, enabled=False):
            moments = self.vae.quant_conv(self.vae.encoder.conv_out(features.float() / SCALE))
        mode: Tensor = moments.chunk(2, 1)[0]
        return SCALE * mode

    def decode(self, z: Tensor) -> Tensor:
        """See LatentPrior. Memory grows with the picture: callers decode large ones in tiles."""
        vae = self.vae
        kind, low = z.device.type, self.unet.dtype == torch.bfloat16
        with torch.autocast(kind, torch.bfloat16, enabled=low):
            h = vae.decoder.conv_in(vae.post_quant_conv(z.float() / SCALE))
            h = vae.decoder.mid_block(h)
            for block in vae.decoder.up_blocks:
                h = block(h)
            h = vae.decoder.conv_act(vae.decoder.conv_norm_out(h))
        with torch.autocast(kind, enabled=False):  # a smooth sky must not get steps
            image: Tensor = vae.decoder.conv_out(h.float())
        return image


def unet_network(config: SdConfig = SD21_BASE) -> Any:
    """Return diffusers' UNet2DConditionModel without values, on the meta device."""
    with torch.device("meta"):
        return diffusers_module("models.unets.unet_2d_condition").UNet2DConditionModel(
            **config.unet()
        )


def vae_network(config: SdConfig = SD21_BASE) -> Any:
    """Return diffusers' AutoencoderKL without values, on the meta device."""
    with torch.device("meta"):
        return diffusers_module("models.autoencoders.autoencoder_kl").AutoencoderKL(**config.vae())


def _read(path: Path, of: str) -> dict[str, Tensor]:
    return published.read(path, of, hint=_HINT)
