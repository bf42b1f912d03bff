"""Training objectives of CDC (paper 001, eq. 6, 8, 9), in two stages.

base   Rate and distortion of the chain's first step, where x_N carries no information: an
       autoencoder with a hyperprior. Trains everything.
chain  Encoder and bits frozen. The denoiser learns the links of short DDIM chains on its own
       outputs, with the perceptual term of eq. 8 and an adversarial one.

Deviations from the paper, with their reasons. The paper trains single steps on noised originals;
an x_0 network so trained returns the conditional mean, a short chain feeds that mean back to
itself, and five steps give what one gives. Here the network sees the states it will really meet.
The first link keeps the plain distortion, later links take the perceptual terms: the steps walk
from the most faithful picture to the most natural one. LPIPS alone is flattered (it falls by far
more than any metric that isn't trained on), so a patch discriminator, as in HiFiC, and the energy
of fine detail stand beside it.
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
from cdcodec.families.cdc.network import CdcNetwork, build
from cdcodec.families.cdc.start import BLOCK, initialise
from cdcodec.nn.device import autocast
from cdcodec.nn.discriminator import Adversary
from cdcodec.nn.klt import photograph_blocks
from cdcodec.nn.losses import detail_energy, distortion, grid_energy, psnr, rate_positions
from cdcodec.nn.perceptual import Lpips

__all__ = ["OBJECTIVES", "initial", "read", "write"]

START_BLOCKS = 40_000
"""Blocks of photographs from which the first transform is computed."""

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
        x_0 = first_link(self.network, coded.y_hat, x, u)
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
        lpips: File with the weights of the perceptual loss.
        colour: As in the base stage; hue likewise.
        first: Of the first link's distortion, which shares its networks with the later links.
        grid: Of grids in step with the networks' blocks, on all links.
        distortion: Of the squared error on -1..1, on later links.
        perceptual: Of LPIPS, on later links; rho / (1 - rho) of eq. 9 is its ratio to distortion.
        energy: Of the error in the energy of fine detail, on later links.
        adversarial: Of the discriminator's opinion, on later links.
        discriminator_lr: Adam's learning rate for it.
        chain_steps: Lengths of chains to train, drawn evenly.
        gamma: Standard deviation of the start x_N.
    """

    lpips: str = "lpips_squeeze.safetensors"
    colour: float = 2.0
    hue: float = 6.0
    first: float = 5.0
    grid: float = 0.1
    distortion: float = 8.0
    perceptual: float = 2.0
    energy: float = 0.1
    adversarial: float = 0.12
    discriminator_lr: float = 2e-4
    chain_steps: tuple[int, ...] = (2, 2, 3, 5, 5)
    gamma: float = 0.8


@dataclass
class _State:
    """A batch on its way down a chain."""

    x: Tensor
    u: Tensor
    y_hat: Tensor
    x_t: Tensor
    indices: list[int]
    link: int = 0
    base: Tensor | None = None


class ChainObjective:
    """One link of a DDIM chain an update; the link's output is the next update's input.

    No forward pass is spent on anything that isn't trained, and gradients pass one link only.
    """

    def __init__(self, network: CdcNetwork, config: ChainConfig) -> None:
        self.network = network
        self.config = config
        device = next(network.parameters()).device
        self.lpips = Lpips.load(Path(config.lpips)).to(device)
        self.adversary = Adversary(device, config.discriminator_lr)
        self.alpha_bar = schedules.cosine(network.config.train_steps).alpha_bar
        self.state: _State | None = None
        freeze_bits(network)

    def parameters(self) -> list[nn.Parameter]:
        """Those of the context pyramid and the denoiser."""
        return self.network.decoder_parameters()

    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint has to keep beside the network."""
        return {"discriminator": self.adversary.discriminator}

    def loss(self, batches: Batches, generator: torch.Generator) -> tuple[Tensor, Logs]:
        """Return the loss of the next link."""
        state = self.state or self._begin(batches(), generator)
        x, u = state.x, state.u
        n = state.indices[state.link]
        signal, noise = self.alpha_bar[n] ** 0.5, (1 - self.alpha_bar[n]) ** 0.5
        level = torch.full_like(u, n / self.network.config.train_steps)
        with autocast(x.device):
            pyramid = self.network.pyramid(state.y_hat, u)
            x_0 = self.network.predict(
                state.x_t, level, torch.full_like(u, signal), pyramid, u
            ).float()
        if state.base is None:
            lam = lagrangian(self.network, u)
            error = distortion(x_0, x, self.config.colour, self.config.hue)
            loss = self.config.first * (lam * error * balance(lam)).mean()
            logs = {"first": loss.item(), "psnr_first": psnr(x_0, x)}
            state.base = x_0.detach().clamp(-1, 1)
        else:
            loss, logs = self._perceptual(x_0, x, state.base)
        grid = grid_energy(x_0, x)
        loss = loss + self.config.grid * grid
        logs["grid"] = grid.item()
        self._advance(state, x_0.detach().clamp(-1, 1), signal, noise)
        return loss, logs

    def _begin(self, x: Tensor, generator: torch.Generator) -> _State:
        u = rate_positions(x, generator)
        with torch.no_grad():
            y_hat = code(self.network, x, u, generator).y_hat
        lengths = self.config.chain_steps
        pick = int(torch.randint(len(lengths), (), generator=generator, device=x.device))
        start = torch.randn(x.shape, generator=generator, device=x.device) * self.config.gamma
        indices = schedules.timesteps(lengths[pick], self.network.config.train_steps)
        self.state = _State(x, u, y_hat, start, indices)
        return self.state

    def _advance(self, state: _State, x_0: Tensor, signal: float, noise: float) -> None:
        """Take the DDIM step of eq. 7, or drop the batch at the end of its chain."""
        state.link += 1
        if state.link == len(state.indices):
            self.state = None
            return
        alpha_next = self.alpha_bar[state.indices[state.link]]
        eps = (state.x_t - signal * x_0) / noise
        state.x_t = alpha_next**0.5 * x_0 + (1 - alpha_next) ** 0.5 * eps

    def _perceptual(self, x_0: Tensor, x: Tensor, base: Tensor) -> tuple[Tensor, Logs]:
        """Eq. 9's terms for a later link, plus the adversarial and the energy term."""
        config = self.config
        with autocast(x.device):
            perceptual = self.lpips(x_0, x).mean()
        opinion = self.adversary.opinion(x_0, base)
        error = distortion(x_0, x, config.colour, config.hue).mean() / (255**2 / 4)
        energy = detail_energy(x_0, x)
        loss = (
            config.distortion * error
            + config.perceptual * perceptual
            + config.energy * energy
            - config.adversarial * opinion
        )
        return loss, {
            "loss": loss.item(),
            "lpips": perceptual.item(),
            "energy": energy.item(),
            "psnr": psnr(x_0, x),
            "discriminator": self.adversary.learn(x, x_0.detach(), base),
        }


def first_link(network: CdcNetwork, y_hat: Tensor, x: Tensor, u: Tensor) -> Tensor:
    """Return x_0 of the chain's first step, shaped as x; it doesn't depend on the noise."""
    with autocast(x.device):
        pyramid = network.pyramid(y_hat, u)
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
