"""Sizes of Stable Diffusion's networks, and of the control half beside its U-Net."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdcodec.errors import WeightsError
from cdcodec.nn.unet import UnetShape


@dataclass(frozen=True)
class SdConfig:
    """Sizes of the networks; all else is as in Stable Diffusion 2.

    Attributes:
        widths: Channels of the U-Net at 1/8, 1/16, 1/32 and 1/64 of the image.
        heads: Attention heads there.
        context: Length of the text's vectors.
        groups: Groups of the U-Net's normalisation.
        vae_widths: Channels of the autoencoder at 1, 1/2, 1/4 and 1/8.
        vae_groups: Groups of its normalisation.
    """

    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    heads: tuple[int, ...] = (5, 10, 20, 20)
    context: int = 1024
    groups: int = 32
    vae_widths: tuple[int, ...] = (128, 256, 512, 512)
    vae_groups: int = 32

    @classmethod
    def read(cls, folder: Path) -> SdConfig:
        """Read the config.json files of a folder in the layout of diffusers.

        Raises:
            WeightsError: They are missing, or of networks that these classes don't build.
        """
        unet, vae = _json(folder / "unet" / "config.json"), _json(folder / "vae" / "config.json")
        heads = unet.get("attention_head_dim")  # which it is called, but it is their number
        try:
            config = cls(
                widths=tuple(unet["block_out_channels"]),
                heads=(heads,) * 4 if isinstance(heads, int) else tuple(heads or ()),
                context=unet["cross_attention_dim"],
                groups=unet["norm_num_groups"],
                vae_widths=tuple(vae["block_out_channels"]),
                vae_groups=vae["norm_num_groups"],
            )
        except (KeyError, TypeError) as error:
            raise WeightsError(f"{folder} holds no Stable Diffusion 2: {error}") from error
        for part, given, expected in [("unet", unet, config.unet()), ("vae", vae, config.vae())]:
            for key, value in expected.items():
                if key in given and given[key] != value and key != "attention_head_dim":
                    raise WeightsError(
                        f"{folder} holds no Stable Diffusion 2: {part} has {key} {given[key]}"
                    )
        _check_prediction(folder / "scheduler" / "scheduler_config.json")
        return config

    @property
    def unet_shape(self) -> UnetShape:
        """What a control network has to know of the U-Net."""
        down = [width for width in self.widths for _ in range(3)]  # the last has no change of scale
        up = down[::-1]
        inputs = self.widths[0], *down[:-1]
        return UnetShape(inputs, self.widths[-1], (self.widths[-1], *up[:-1]))

    def unet(self) -> dict[str, Any]:
        """Return the arguments of diffusers' UNet2DConditionModel."""
        return {
            "in_channels": 4,
            "out_channels": 4,
            "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
            "mid_block_type": "UNetMidBlock2DCrossAttn",
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
            "block_out_channels": list(self.widths),
            "layers_per_block": 2,
            "norm_num_groups": self.groups,
            "cross_attention_dim": self.context,
            "attention_head_dim": list(self.heads),
            "use_linear_projection": True,
            "flip_sin_to_cos": True,
            "freq_shift": 0,
        }

    def vae(self) -> dict[str, Any]:
        """Return the arguments of diffusers' AutoencoderKL."""
        return {
            "in_channels": 3,
            "out_channels": 3,
            "latent_channels": 4,
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
            "block_out_channels": list(self.vae_widths),
            "layers_per_block": 2,
            "norm_num_groups": self.vae_groups,
        }


@dataclass(frozen=True)
class ControlConfig:
    """Sizes of the control half (RDEIC, paper 002, App. B: a fifth of the U-Net's width).

    Attributes:
        widths: Channels at 1/8, 1/16, 1/32 and 1/64 of the image.
        head_channels: Channels of an attention head.
        context: Length of the text's vectors.
        frequencies: Sines and cosines that a time is told in.
        condition: Length of the time's vector.
    """

    widths: tuple[int, ...] = (64, 128, 256, 256)
    head_channels: int = 16
    context: int = 1024
    frequencies: int = 320
    condition: int = 1280


SD21_BASE = SdConfig()
SD21_CONTROL = ControlConfig()
TINY = SdConfig(
    widths=(8, 16, 24, 24),
    heads=(1, 2, 3, 3),
    context=12,
    groups=4,
    vae_widths=(4, 8, 8, 8),
    vae_groups=2,
)
TINY_CONTROL = ControlConfig(
    widths=(4, 6, 36, 36),  # a group of one channel can't be normalised at one pixel
    head_channels=2,
    context=12,
    frequencies=8,
    condition=32,
)


def _json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"cannot read {path}: {error}",
            hint="cdcodec weights show sd21-base says where it comes from",
        ) from error
    if not isinstance(read, dict):
        raise WeightsError(f"{path} is no configuration")
    return read


def _check_prediction(path: Path) -> None:
    """Check what the U-Net predicts: the one of 768 pixels predicts v, and has the same shape."""
    if path.is_file() and _json(path).get("prediction_type", "epsilon") != "epsilon":
        raise WeightsError(f"{path.parent.parent} doesn't predict eps: only 2.1-base will do")
