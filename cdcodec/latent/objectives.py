"""Training of the small latent prior, once for all families that share it.

autoencoder  Image to latent and back: distortion, LPIPS, an adversarial term.
decoder      The same for the way back alone: latents, and what was trained on them, stay valid.
noise        The U-Net's noise estimation (Ho et al. 2020, eq. 14) on the frozen encoder's latents.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdcodec import weight_file
from cdcodec.diffusion.schedules import scaled_linear
from cdcodec.errors import InputError, WeightsError
from cdcodec.nn.device import autocast
from cdcodec.nn.discriminator import Adversary
from cdcodec.nn.klt import karhunen_loeve, photograph_blocks
from cdcodec.nn.latent_diffusion import LATENT_STRIDE, PRESETS, PriorConfig, SmallPrior, build
from cdcodec.nn.losses import detail_energy, distortion, grid_energy, psnr
from cdcodec.nn.perceptual import Lpips
from cdcodec.nn.unet import predict_noise

START_BLOCKS = 40_000

Batches = Callable[[], Tensor]
Logs = dict[str, float]


@dataclass(frozen=True)
class AutoencoderConfig:
    """Weights of the autoencoder's terms.

    Attributes:
        lpips: File with the weights of the perceptual loss.
        noise: Standard deviation of the noise that the decoder has to bear, in units of that of
            the latent: what a sampler leaves behind.
        distortion: Of the squared error on -1..1; colour and hue as in nn.losses.distortion.
        perceptual: Of LPIPS.
        energy: Of the error in the energy of fine detail.
        grid: Of grids in step with the networks' blocks.
        adversarial: Of the discriminator's opinion, from adversarial_start on.
        adversarial_start: Updates without it.
        discriminator_lr: Adam's learning rate for the discriminator.
    """

    lpips: str = "lpips_squeeze.safetensors"
    noise: float = 0.05
    distortion: float = 10.0
    colour: float = 2.0
    hue: float = 6.0
    perceptual: float = 1.5
    energy: float = 0.05
    grid: float = 0.1
    adversarial: float = 0.1
    adversarial_start: int = 1500
    discriminator_lr: float = 2e-4


class AutoencoderObjective:
    """Both halves of the autoencoder."""

    def __init__(self, network: SmallPrior, config: AutoencoderConfig) -> None:
        self.network = network
        self.config = config
        device = network.shift.device
        self.lpips = Lpips.load(Path(config.lpips)).to(device)
        self.adversary = Adversary(device, config.discriminator_lr)
        self.step = 0

    def parameters(self) -> list[nn.Parameter]:
        """Those of encoder and decoder."""
        return [*self.network.encoder.parameters(), *self.network.decoder.parameters()]

    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint has to keep beside the network."""
        return {"discriminator": self.adversary.discriminator}

    def latent(self, x: Tensor) -> Tensor:
        """Encode x, and follow mean and deviation of the latent."""
        with autocast(x.device):
            raw = self.network.raw_latent(self.network.features(x))
        with torch.no_grad():
            deviation, mean = torch.std_mean(raw, (0, 2, 3), keepdim=True)
            follow = max(0.01, 1 / (self.step + 1))
            self.network.shift.lerp_(mean, follow)
            self.network.scale.lerp_(deviation, follow)
        return (raw - self.network.shift) / self.network.scale

    def loss(self, batches: Batches, generator: torch.Generator) -> tuple[Tensor, Logs]:
        """Return the loss of the next batch."""
        config = self.config
        x = batches()
        z = self.latent(x)
        noise = torch.randn(z.shape, generator=generator, device=x.device)
        with autocast(x.device):
            x_hat = self.network.decode(z + config.noise * noise)
            perceptual = self.lpips(x_hat, x).mean()
        error = distortion(x_hat, x, config.colour, config.hue).mean() / (255**2 / 4)
        energy, grid = detail_energy(x_hat, x), grid_energy(x_hat, x)
        loss = (
            config.distortion * error
            + config.perceptual * perceptual
            + config.energy * energy
            + config.grid * grid
        )
        logs = {
            "lpips": perceptual.item(),
            "energy": energy.item(),
            "grid": grid.item(),
            "psnr": psnr(x_hat, x),
        }
        self.step += 1
        if self.step > config.adversarial_start:
            base = _blurred(x)
            loss = loss - config.adversarial * self.adversary.opinion(x_hat, base)
            logs["discriminator"] = self.adversary.learn(x, x_hat.detach(), base)
        return loss, {"loss": loss.item(), **logs}


class DecoderObjective(AutoencoderObjective):
    """The decoder alone, on the latents of an encoder that stays what it is."""

    def parameters(self) -> list[nn.Parameter]:
        """Those of the decoder."""
        return list(self.network.decoder.parameters())

    @torch.no_grad()
    def latent(self, x: Tensor) -> Tensor:
        """Encode x."""
        with autocast(x.device):
            return self.network.latent(self.network.features(x))


@dataclass(frozen=True)
class NoiseConfig:
    """Nothing is left to choose."""


class NoiseObjective:
    """The squared error of eps at steps drawn evenly."""

    def __init__(self, network: SmallPrior, config: NoiseConfig) -> None:
        self.network = network
        self.schedule = scaled_linear()

    def parameters(self) -> list[nn.Parameter]:
        """Those of the U-Net."""
        return list(self.network.unet.parameters())

    def modules(self) -> dict[str, nn.Module]:
        """Nothing is trained beside the network."""
        return {}

    def loss(self, batches: Batches, generator: torch.Generator) -> tuple[Tensor, Logs]:
        """Return the loss of the next batch."""
        x = batches()
        with torch.no_grad(), autocast(x.device):
            z = self.network.latent(self.network.features(x))
        strata = torch.arange(len(x), device=x.device)
        u = (strata + torch.rand(len(x), generator=generator, device=x.device)) / len(x)
        t = (u * len(self.schedule)).long()
        eps = torch.randn(z.shape, generator=generator, device=x.device)
        with autocast(x.device):
            estimate = predict_noise(self.network.unet, self.schedule.diffuse(z, eps, t), t)
        errors = (estimate.float() - eps).square().mean((1, 2, 3))
        third = len(x) // 3
        loss = errors.mean()
        return loss, {
            "loss": loss.item(),
            "low": errors[:third].mean().item(),
            "middle": errors[third : 2 * third].mean().item(),
            "high": errors[2 * third :].mean().item(),
        }


def _blurred(x: Tensor) -> Tensor:
    """Return what a latent surely holds of x: means of 8x8 pixels, interpolated."""
    means = F.avg_pool2d(x, LATENT_STRIDE)
    return F.interpolate(means, scale_factor=LATENT_STRIDE, mode="bilinear")


@torch.no_grad()
def initial(preset: str, seed: int, batches: Batches) -> SmallPrior:
    """Return a prior whose linear halves are the KLT of 8x8 blocks, the rest random or zero.

    Raises:
        InputError: If there is no such preset.
    """
    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset}, not one of {', '.join(PRESETS)}")
    prior = build(PRESETS[preset], seed)
    config = prior.config
    blocks = photograph_blocks(batches, LATENT_STRIDE, START_BLOCKS)
    mean, deviation, basis = karhunen_loeve(blocks, config.linear)
    encoder, decoder = prior.encoder, prior.decoder
    for layer in (encoder.head, decoder.head):
        layer.weight.zero_()
        assert layer.bias is not None
        layer.bias.zero_()
    assert encoder.linear.bias is not None
    assert decoder.linear.bias is not None
    encoder.linear.weight.copy_(_tensor((basis / deviation).T)[:, :, None, None])
    encoder.linear.bias.copy_(_tensor(-(mean @ basis) / deviation))
    kept = range(config.latent)
    for k in kept:
        encoder.head.weight[k, config.encoder[1] + k, 1, 1] = 1.0
    decoder.linear.weight.copy_(_tensor(basis[:, kept] * deviation[kept])[:, :, None, None])
    decoder.linear.bias.copy_(_tensor(mean))
    return prior


def write(network: nn.Module, path: Path) -> None:
    """Write a weight file in float16, whole or not at all.

    Raises:
        OverflowError: If a weight is beyond float16's range: training has diverged.
    """
    assert isinstance(network, SmallPrior)
    metadata = {"family": "latent", "config": dataclasses.asdict(network.config)}
    description = json.dumps(metadata, sort_keys=True)
    weight_file.write(path, weight_file.halves(network), description)


def read(path: Path) -> SmallPrior:
    """Read a weight file.

    Raises:
        WeightsError: If it isn't a small prior's.
    """
    try:
        metadata = json.loads(weight_file.read_metadata(path))
        tensors = {name: tensor.float() for name, tensor in weight_file.read_floats(path).items()}
        config: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in metadata["config"].items()
        }
        prior = build(PriorConfig(**config))
        prior.load_state_dict(tensors, strict=True)
    except (WeightsError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path.name} does not hold a small latent prior") from error
    return prior


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).float()


OBJECTIVES: dict[str, tuple[type, type]] = {
    "autoencoder": (AutoencoderObjective, AutoencoderConfig),
    "decoder": (DecoderObjective, AutoencoderConfig),
    "noise": (NoiseObjective, NoiseConfig),
}
"""Objectives by the name that recipes use, each with its configuration."""
