"""Stages of training that both latent diffusion families have.

joint  Rate, alignment of z_c with the prior's latent, noise estimation (paper 002, eq. 9; paper
       003, eq. 13), all in one. Trains everything but the prior.
chain  Compression frozen; the control network is trained through whole short chains and the
       prior's decoder (paper 002, eq. 10).

Deviations from the papers, with their reasons. Alignment is measured in pixels too, through the
frozen decoder, with more weight on colour: a small prior's latent doesn't tell what the eye minds.
The start of the noise estimation, z_c, is cut off from its gradient: with so short a training, bits
would go to what is easily predicted. What the control network is told, in DiffEIC z_c and in RDEIC
the guide, is not. In the chain stage files stay what they are, so that it can go on for ever; the
plain LPIPS of eq. 10 is flattered by networks of this size, so a patch discriminator stands beside
it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cdcodec import weights
from cdcodec.diffusion.schedules import Schedule, scaled_linear
from cdcodec.latent import objectives as prior_files
from cdcodec.latent.network import Coded, LatentNetwork
from cdcodec.nn.control import controlled_noise
from cdcodec.nn.device import autocast
from cdcodec.nn.discriminator import Adversary
from cdcodec.nn.latent_diffusion import SmallPrior
from cdcodec.nn.losses import detail_energy, distortion, grid_energy, psnr, rate_positions
from cdcodec.nn.perceptual import Lpips

Batches = Callable[[], Tensor]
Logs = dict[str, float]


def load_prior(preset: str) -> SmallPrior:
    """Return a small prior of the package, frozen.

    Raises:
        WeightsError: If it can't be had.
    """
    (path, *_rest) = weights.resolve(f"latent-{preset}")
    return prior_files.read(path).requires_grad_(False).eval()


@dataclass(frozen=True)
class JointConfig:
    """Weights of the joint stage.

    Attributes:
        latent: Of the squared error of z_c.
        pixels: Of the squared error on -1..1 of the direct decode. A latent's channels all weigh
            the same, those of fine detail as well; without this, they get the bits.
        colour: Of the squared error of 8x8 block means in it, relative to the plain one.
        hue: Of the part of that error which isn't grey.
        noise: Of the noise estimation.
        rate_warmup_steps: Steps over which the rate term grows to its full weight.
    """

    latent: float = 0.3
    pixels: float = 20.0
    colour: float = 2.0
    hue: float = 6.0
    noise: float = 1.0
    rate_warmup_steps: int = 300


class JointObjective(ABC):
    """Everything at once, each image of a batch at its own rate position."""

    def __init__(self, network: LatentNetwork, config: JointConfig) -> None:
        self.network = network
        self.config = config
        self.schedule = scaled_linear()
        self.prior = load_prior(network.config.prior).to(network.log_gain.device)
        self.step = 0

    @abstractmethod
    def diffuse(self, z_0: Tensor, z_c: Tensor, eps: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return z_t and what the control network is to predict from it."""

    @abstractmethod
    def steps(self, u: Tensor) -> Tensor:
        """Map u [B] in 0..1 to steps [B] of 1,000."""

    def weight(self, t: Tensor) -> Tensor:
        """Return the weight [B] of the noise estimation at steps t."""
        return torch.ones(t.shape, device=t.device)

    def parameters(self) -> list[nn.Parameter]:
        """All of them."""
        return [p for p in self.network.parameters() if p.requires_grad]

    def modules(self) -> dict[str, nn.Module]:
        """Nothing is trained beside the network."""
        return {}

    def loss(self, batches: Batches, generator: torch.Generator) -> tuple[Tensor, Logs]:
        """Return the loss of the next batch."""
        config = self.config
        x = batches()
        u = rate_positions(x, generator)
        with torch.no_grad(), autocast(x.device):
            features = self.prior.features(x)
            z_0 = self.prior.latent(features)
        coded = self.network.code(x, features.float(), z_0, u, generator)
        with autocast(x.device):
            x_c = self.prior.decode(coded.z_c)
        error = (coded.z_c - z_0).square().mean((1, 2, 3))
        cast = distortion(x_c, x, config.colour, config.hue) / (255**2 / 4)
        estimation = self._noise_estimation(z_0, coded, generator)
        lam = lagrangian(self.network, u)
        self.step += 1
        rate_weight = min(1.0, 0.05 + self.step / max(1, config.rate_warmup_steps))
        wanted = lam * (config.latent * error + config.pixels * cast + config.noise * estimation)
        loss = ((rate_weight * coded.bpp + wanted) * balance(self.network, lam)).mean()
        return loss + coded.loss, {
            "loss": loss.item(),
            "codebook": coded.loss.item(),
            "bpp_low": coded.bpp[0].item(),
            "bpp_high": coded.bpp[-1].item(),
            "z_low": error[0].item(),
            "z_high": error[-1].item(),
            "noise": estimation.mean().item(),
            "psnr": psnr(x_c, x),
        }

    def _noise_estimation(self, z_0: Tensor, coded: Coded, generator: torch.Generator) -> Tensor:
        """Return the weighted squared error of eps for each image [B]."""
        device = z_0.device
        strata = torch.randperm(len(z_0), generator=generator, device=device)
        u = (strata + torch.rand(len(z_0), generator=generator, device=device)) / len(z_0)
        t = self.steps(u)
        eps = torch.randn(z_0.shape, generator=generator, device=device)
        z_t, target = self.diffuse(z_0, coded.z_c.detach(), eps, t)
        with autocast(device):
            estimate = controlled_noise(self.prior.unet, self.network.control, z_t, t, coded.hint)
        return self.weight(t) * (estimate.float() - target).square().mean((1, 2, 3))


@dataclass(frozen=True)
class ChainConfig:
    """Weights of the chain stage.

    Attributes:
        lpips: File with the weights of the perceptual loss.
        latent: Of the squared error of z_0.
        distortion: Of the squared error on -1..1; colour and hue as in the joint stage.
        perceptual: Of LPIPS.
        energy: Of the error in the energy of fine detail.
        grid: Of grids in step with the networks' blocks.
        adversarial: Of the discriminator's opinion.
        adversarial_start: Updates without it.
        discriminator_lr: Adam's learning rate for it.
        chain_steps: Lengths of chains to train, drawn evenly.
        balance: Images of a batch weigh as lambda to this power.
    """

    lpips: str = "lpips_squeeze.safetensors"
    latent: float = 0.5
    distortion: float = 8.0
    colour: float = 2.0
    hue: float = 6.0
    perceptual: float = 2.0
    energy: float = 0.1
    grid: float = 0.1
    adversarial: float = 0.12
    adversarial_start: int = 300
    discriminator_lr: float = 2e-4
    chain_steps: tuple[int, ...] = (1, 2, 2, 5)
    balance: float = 0.0


class ChainObjective(ABC):
    """A whole chain an update: gradients pass all its links and the prior's decoder."""

    def __init__(self, network: LatentNetwork, config: ChainConfig) -> None:
        self.network = network
        self.config = config
        device = network.log_gain.device
        self.schedule: Schedule = scaled_linear()
        self.prior = load_prior(network.config.prior).to(device)
        self.lpips = Lpips.load(Path(config.lpips)).to(device)
        self.adversary = Adversary(device, config.discriminator_lr)
        self.step = 0
        network.requires_grad_(False)
        for parameter in self.parameters():
            parameter.requires_grad_(True)

    @abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """Those of what turns latents into pixels, and only of that."""

    @abstractmethod
    def sample(
        self, z_c: Tensor, hint: Tensor, steps: int, generator: torch.Generator
    ) -> tuple[Tensor, float]:
        """Return z_0 [B, C, h, w] of a chain of so many steps, and how much the loss counts."""

    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint has to keep beside the network."""
        return {"discriminator": self.adversary.discriminator}

    def eps(self, z_t: Tensor, n: int, hint: Tensor) -> Tensor:
        """Predict the noise in z_t [B, C, h, w] at step n."""
        t = torch.full((len(z_t),), n, device=z_t.device)
        with autocast(z_t.device):
            eps = controlled_noise(self.prior.unet, self.network.control, z_t, t, hint)
        return eps.float()

    def loss(self, batches: Batches, generator: torch.Generator) -> tuple[Tensor, Logs]:
        """Return the loss of the next chain."""
        config = self.config
        x = batches()
        u = rate_positions(x, generator)
        with torch.no_grad(), autocast(x.device):
            features = self.prior.features(x)
            z_0 = self.prior.latent(features)
        coded = self.network.code(x, features.float(), z_0, u, generator)
        lengths = config.chain_steps
        pick = int(torch.randint(len(lengths), (), generator=generator, device=x.device))
        estimate, weight = self.sample(coded.z_c.detach(), coded.hint, lengths[pick], generator)
        with torch.no_grad(), autocast(x.device):
            base = self.prior.decode(coded.z_c).clamp(-1, 1)
        with autocast(x.device):
            x_hat = self.prior.decode(estimate)
            perceptual = self.lpips(x_hat, x)
        error = distortion(x_hat, x, config.colour, config.hue) / (255**2 / 4)
        aligned = (estimate - z_0).square().mean((1, 2, 3))
        energy, grid = detail_energy(x_hat, x), grid_energy(x_hat, x)
        wanted = (
            config.latent * aligned + config.distortion * error + config.perceptual * perceptual
        )
        # Errors are small at high rates, and these would count for nothing beside the low ones.
        share = lagrangian(self.network, u) ** config.balance
        loss = (share / share.mean() * wanted).mean()
        loss = loss + config.energy * energy + config.grid * grid
        logs = {
            "lpips": perceptual.mean().item(),
            "z": aligned.mean().item(),
            "energy": energy.item(),
            "grid": grid.item(),
            "psnr": psnr(x_hat, x),
            "psnr_direct": psnr(base, x),
        }
        self.step += 1
        if self.step > config.adversarial_start:
            loss = loss - config.adversarial * self.adversary.opinion(x_hat, base)
            logs["discriminator"] = self.adversary.learn(x, x_hat.detach(), base)
        loss = weight * loss
        return loss, {"loss": loss.item(), **logs}


def lagrangian(network: LatentNetwork, u: Tensor) -> Tensor:
    """Lambda at rate positions u [B]: bits per pixel against the error of z_c."""
    low, high = network.config.lambda_range
    return low * (high / low) ** u


def balance(network: LatentNetwork, lam: Tensor) -> Tensor:
    """Weigh images of a batch with 1/sqrt(lambda), else the high rates dominate."""
    low, high = network.config.lambda_range
    middle: Tensor = ((low * high) ** 0.5 / lam).sqrt()
    return middle
