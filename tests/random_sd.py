"""Stable Diffusion with random weights: as a folder of diffusers, and as the weight set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save_file

from cdcodec import weights
from cdcodec.nn.stable_diffusion_config import TINY, SdConfig

Made = TypeVar("Made")


def seeded(make: Callable[[], Made]) -> Made:
    """Return what make returns under a fixed random state, which is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def write(folder: Path, config: SdConfig = TINY) -> None:
    """Write unet/, vae/ and the empty prompt's embedding in the layout of diffusers."""
    import diffusers

    unet = seeded(lambda: diffusers.UNet2DConditionModel(**config.unet()))
    unet.save_pretrained(folder / "unet", max_shard_size="20GB")
    vae = seeded(lambda: diffusers.AutoencoderKL(**config.vae()))
    vae.save_pretrained(folder / "vae")
    prompt = {"empty_prompt": seeded(lambda: torch.randn(1, 77, config.context))}
    save_file(prompt, folder / "empty_prompt.safetensors")


def register(folder: Path) -> None:
    """Enter a folder as sd21-base into the user's own registry."""
    registered = weights.find("sd21-base", registry=weights.load_registry(weights.registry_path()))
    files = tuple(
        replace(
            file,
            sha256=weights.sha256_of(folder / file.path),
            bytes=(folder / file.path).stat().st_size,
            location=str(folder / file.path),
        )
        for file in registered.files
    )
    weights.register(weights.own_registry_path(), replace(registered, files=files))
