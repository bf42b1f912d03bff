"""Training objectives of CDC (paper 001, eq. 6, 8, 9), in two stages.

base   Rate and distortion of the chain's first step, where x_N carries no information: an
       autoencoder with a hyperprior. Trains everything.
chain  Encoder and bits frozen. The denoiser learns the links of short DDIM chains on its own
       outputs, with a perceptual term in place of eq. 8's and an adversarial one.

Deviations from the paper, with their reasons. The paper trains single steps on noised originals. An
x_0 network so trained returns the conditional mean, a short chain feeds that mean back to itself,
and five steps give the picture of one step. Here the network sees the states that decoding will
really show it. The first link keeps the plain distortion, and later links take the perceptual
terms: the steps lead from the most faithful picture to the most natural one. LPIPS alone is
flattered: a network that is trained on it improves it by far more than any other metric. So the
perceptual term is a distance in two trunks, under random shifts, flips and sizes, and a projected
discriminator stands beside it (see nn.picture_loss).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cdcodec.diffusion import schedules
from cdcodec.errors import InputError
from cdcodec.families.cdc.config import PRESETS
from cdcodec.families.cdc.export import read, write
from cdcodec.families.cdc.loss import balance, code, freeze_bits, lagrangian
from cdcodec.families.cdc.network import CdcNetwork, Pyramid, build
from cdcodec.families.cdc.start import BLOCK, initialise
from cdcodec.nn.device import autocast
from cdcodec.nn.klt import photograph_blocks
from cdcodec.nn.losses import distortion, grid_energy, psnr, rate_positions
from cdcodec.nn.picture_loss import PictureLoss

__all__ = ["OBJECTIVES", "initial", "read", "write"]

START_BLOCKS = 40_000
"""Blocks of photographs from which the first transform is computed."""

UNIT = 255**2 / 4
"""Squared errors on 0..255 over those on -1..1."""

Batches = Callable[[], Tensor]
"""Gives the next batch of crops [B, 3, H, W] in -1..1."""

Logs = dict[str, float]


@dataclass(frozen=True)
class BaseConfig:
    """Weights of the base stage.

    Attributes:
        colour: Of the squared error of 8x8 block means, relative to the plain one.
        hue: Of the part of that error which isn't grey.
        rate_warmup_steps: Steps over which the rate term grows to its full weight: with all of it
            from the start, training falls into grey images.
    """

    colour: float = 2.0
    hue: float = 6.0
    rate_warmup_steps: int = 600


class BaseObjective:
    """Rate + lambda * distortion, each image of a batch at its own rate position."""

    def __init__(self, network: CdcNetwork, config: BaseConfig) -> None:
        self.network = network
        self.config = config
        self.step = 0

    def parameters(self) -> list[nn.Parameter]:
        """All of them."""
        return list(self.network.parameters())

    def modules(self) -> dict[str, nn.Module]:
        """Nothing is trained beside the network."""
        return {}

    def loss(self, batches: Batches, generator: torch.Generator) -> tuple[Tensor, Logs]:
        """Return the loss of the next batch."""
        x = batches()
        u = rate_positions(x, generator)
        coded = code(self.network, x, u, generator)
        with autocast(x.device):
            pyramid = self.network.pyramid(coded.y_hat, u)
        x_0 = first_link(self.network, pyramid, x, u)
        error = distortion(x_0, x, self.config.colour, self.config.hue)
        lam = lagrangian(self.network, u)
        self.step += 1
        rate_weight = min(1.0, 0.05 + self.step / max(1, self.config.rate_warmup_steps))
        loss = ((rate_weight * coded.bpp + lam * error) * balance(lam)).mean()
        return loss, {
            "loss": loss.item(),
            "bpp_low": coded.bpp[0].item(),
            "bpp_high": coded.bpp[-1].item(),
            "psnr": psnr(x_0, x),
        }


@dataclass(frozen=True)
class ChainConfig:
    """Weights of the chain stage.

    Attributes:
        lpips: File with the weights of LPIPS.
        colour: Of the squared error of 8x8 block means, relative to the plain one.
        hue: Of the part of that error which isn't grey.
        first: Of the first link's distortion. All other weights are of later links.
        first_every: The first link is trained in one of so many updates.
        grid: Of grids in step with the networks' blocks.
        distortion: Of the squared error on -1..1.
        quiet: By which part the squared error weighs more at gamma 0 than at gamma 1.
        lpips_distance: Of the distance in LPIPS's trunk, see nn.picture_loss.
        trunk_distance: Of the distance in EfficientNet-Lite0.
        adversarial: Of the discriminator's opinion, times gamma.
        adversarial_start: Updates in which the discriminator learns alone.
        discriminator_lr: Adam's learning rate for it.
        chain_steps: Lengths of chains to train, drawn evenly.
    """

    lpips: str = "lpips_squeeze.safetensors"
    colour: float = 1.0
    hue: float = 3.0
    first: float = 15.0
    first_every: int = 3
    grid: float = 0.05
    distortion: float = 8.0
    quiet: float = 0.4
    lpips_distance: float = 0.8
    trunk_distance: float = 1.0
    adversarial: float = 0.06
    adversarial_start: int = 50
    discriminator_lr: float = 3e-4
    chain_steps: tuple[int, ...] = (2, 2, 3, 5)


class ChainObjective:
    """One later link of a DDIM chain an update, and now and then the first.

    The links before the trained one run without gradients, on the chain's own outputs. gamma is
    random: the louder the noise, the more the discriminator's opinion counts, and the less the
    distortion.
    """

    def __init__(self, network: CdcNetwork, config: ChainConfig) -> None:
        self.network = network
        self.config = config
        device = next(network.parameters()).device
        self.pictures = PictureLoss(Path(config.lpips), device, config.discriminator_lr)
        self.alpha_bar = schedules.cosine(network.config.train_steps).alpha_bar
        self.step = 0
        freeze_bits(network)

    def parameters(self) -> list[nn.Parameter]:
        """Those of the context pyramid and the denoiser."""
        return self.network.decoder_parameters()

    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint has to keep beside the network."""
        return {"discriminator": self.pictures.discriminator}

    def loss(self, batches: Batches, generator: torch.Generator) -> tuple[Tensor, Logs]:
        """Return the loss of the next batch."""
        config = self.config
        x = batches()
        u = rate_positions(x, generator)
        with torch.no_grad():
            y_hat = code(self.network, x, u, generator).y_hat
        with autocast(x.device):
            pyramid = self.network.pyramid(y_hat, u)
        trains_first = self.step % config.first_every == 0
        with torch.set_grad_enabled(trains_first):
            x_0 = first_link(self.network, pyramid, x, u)
        faithful = x_0.detach().clamp(-1, 1)

        gamma = torch.rand(len(x), generator=generator, device=x.device).sqrt()
        later = self._later_link(faithful, gamma, pyramid, u, generator)
        plain = distortion(later, x, 0, 0) / UNIT
        cast = distortion(later, x, config.colour, config.hue) / UNIT - plain
        compared = self.pictures.compare(later, x, faithful, generator)
        adversarial = config.adversarial if self.step >= config.adversarial_start else 0.0
        per_picture = (
            config.distortion * ((1 + config.quiet * (1 - gamma)) * plain + cast)
            + config.lpips_distance * compared.lpips
            + config.trunk_distance * compared.trunk
            - adversarial * gamma * compared.opinion
        )
        loss = per_picture.mean() + config.grid * grid_energy(later, x)
        logs = {
            "loss": loss.item(),
            "lpips": compared.lpips.mean().item(),
            "trunk": compared.trunk.mean().item(),
            "psnr": psnr(later, x),
            "discriminator": self.pictures.learn(),
        }
        if trains_first:
            lam = lagrangian(self.network, u)
            error = distortion(x_0, x, config.colour, config.hue)
            loss = loss + config.first * (lam * error * balance(lam)).mean()
            logs["psnr_first"] = psnr(x_0, x)
        self.step += 1
        return loss, logs

    def _later_link(
        self, x_0: Tensor, gamma: Tensor, pyramid: Pyramid, u: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Walk down a chain of random length from its first x_0 to a random later link.

        Returns:
            The x_0 of that link [B, 3, H, W], through which gradients pass.
        """

        def draw(below: int) -> int:
            return int(torch.randint(below, (), generator=generator, device=x_0.device))

        steps = self.config.chain_steps[draw(len(self.config.chain_steps))]
        indices = schedules.trailing_timesteps(steps, self.network.config.train_steps)
        last = 1 + draw(steps - 1)
        noise = torch.randn(x_0.shape, generator=generator, device=x_0.device)
        eps = gamma[:, None, None, None] * noise
        for link in range(1, last + 1):
            alpha = float(self.alpha_bar[indices[link]])
            x_t = alpha**0.5 * x_0 + (1 - alpha) ** 0.5 * eps
            with torch.set_grad_enabled(link == last), autocast(x_0.device):
                level = torch.full_like(u, indices[link] / self.network.config.train_steps)
                signal = torch.full_like(u, alpha**0.5)
                x_0 = self.network.predict(x_t, level, signal, pyramid, u).float()
            if link < last:
                x_0 = x_0.clamp(-1, 1)
                eps = (x_t - alpha**0.5 * x_0) / (1 - alpha) ** 0.5
        return x_0


def first_link(network: CdcNetwork, pyramid: Pyramid, x: Tensor, u: Tensor) -> Tensor:
    """Return x_0 of the chain's first step, shaped as x; it doesn't depend on the noise."""
    with autocast(x.device):
        x_0 = network.predict(
            torch.zeros_like(x), torch.ones_like(u), torch.zeros_like(u), pyramid, u
        )
    return x_0.float()


def initial(preset: str, seed: int, batches: Batches) -> CdcNetwork:
    """Return networks of a preset as training starts with them, see start.initialise.

    Raises:
        InputError: If there is no such preset.
    """
    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset}, not one of {', '.join(PRESETS)}")
    network = build(PRESETS[preset], seed)
    initialise(network, photograph_blocks(batches, BLOCK, START_BLOCKS))
    return network


OBJECTIVES: dict[str, tuple[type, type]] = {
    "base": (BaseObjective, BaseConfig),
    "chain": (ChainObjective, ChainConfig),
}
"""Objectives by the name that recipes use, each with its configuration."""
