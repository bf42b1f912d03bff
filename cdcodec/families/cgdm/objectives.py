"""Training objectives of CGDM (paper 004, sec. 3.5), in two stages; the base codec is frozen.

coarse  Noise estimation on noised originals, given their base decodes, and the rate of the syntax
        vectors (eq. 6).
fine    Through short DDIM chains: distortion, perceptual terms and rate on the pictures (eq. 7).

Deviations from the paper, with their reasons. The error of eps in eq. 6 is that of x_0 times the
ratio of signal to noise, which is clipped: unclipped, steps with hardly any noise are all that
counts. In eq. 7, gradients pass one link of the chain at a time, and every link has its loss: nine
at once don't fit a laptop. Chains of 2, 5 and 9 steps are trained, so that readers may choose. The
first link keeps a plain distortion and later ones take the perceptual terms, so that the chain
walks from the most faithful picture to the most natural one. The distortion is a squared error with
more weight on colour instead of L1: colour casts are the commonest fault of small models. LPIPS
with a SqueezeNet stands for DISTS and two larger LPIPS, whose networks take longer than ours; as it
is flattered, a patch discriminator, as in HiFiC, and the energy of fine detail stand beside it. The
weights of rate (100 and 20 in the paper, on crops of 256) are lower, since a vector is shared by
ten times the pixels of a crop. One set of weights serves all rates and other codecs too, where the
paper trains six: base decodes are made at random rates, some by JPEG or WebP, and now and then the
vector is neutral.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cdcodec import families
from cdcodec.codec import Codec, Pixels
from cdcodec.diffusion import pictures, schedules
from cdcodec.entropy.coder import Meter
from cdcodec.errors import InputError
from cdcodec.families.cgdm.base import decode_base
from cdcodec.families.cgdm.config import PRESETS, TRAIN_STEPS
from cdcodec.families.cgdm.export import read, write
from cdcodec.families.cgdm.network import CgdmNetwork, build
from cdcodec.families.cgdm.syntax import INDEX_UNIT
from cdcodec.nn.device import autocast
from cdcodec.nn.discriminator import Adversary
from cdcodec.nn.losses import (
    detail_energy,
    distortion,
    gaussian_bits,
    grid_energy,
    psnr,
    rate_positions,
)
from cdcodec.nn.perceptual import Lpips

__all__ = ["OBJECTIVES", "initial", "read", "write"]

Batches = Callable[[], Tensor]
"""Gives the next batch of crops [B, 3, H, W] in -1..1."""

Logs = dict[str, float]

OTHER_CODECS = {"JPEG": (4, 40), "WEBP": (0, 40)}
"""Pillow's names, and the range of qualities."""


@dataclass(frozen=True)
class PairConfig:
    """How originals and decoded pictures are paired.

    Attributes:
        base: Weight set of the base codec.
        others: Fraction of pictures that another codec decoded.
        neutral: Fraction of pictures that come without a syntax vector.
        rate: Weight of the syntax vector's bits per pixel of the crop: lambda_c, lambda_f.
    """

    base: str = "cdc-nano"
    others: float = 0.2
    neutral: float = 0.15
    rate: float = 5.0


@dataclass(frozen=True)
class CoarseConfig(PairConfig):
    """Weights of the coarse stage.

    Attributes:
        snr_limit: Largest weight of the squared error of x_0. That of eps weighs it with the ratio
            of signal to noise, which is ten thousand where there is hardly any noise (Hang et al.
            2023).
        reuse: Updates on a batch, each at steps of its own: coding it takes as long as two.
    """

    snr_limit: float = 5.0
    reuse: int = 4


@dataclass(frozen=True)
class FineConfig(PairConfig):
    """Weights of the fine stage.

    Attributes:
        lpips: File with the weights of the perceptual loss.
        first: Of the first link's distortion; colour and hue are its weights of 8x8 block means
            and of the part of their error which isn't grey.
        grid: Of grids in step with the networks' blocks, on all links.
        distortion: Of the squared error on -1..1, on later links.
        perceptual: Of LPIPS, on later links.
        energy: Of the error in the energy of fine detail, on later links.
        adversarial: Of the discriminator's opinion, on later links.
        adversarial_start: Updates without it.
        discriminator_lr: Adam's learning rate for it.
        chain_steps: Lengths of chains to train, drawn evenly.
    """

    lpips: str = "lpips_squeeze.safetensors"
    first: float = 16.0
    colour: float = 2.0
    hue: float = 6.0
    grid: float = 0.1
    distortion: float = 8.0
    perceptual: float = 2.0
    energy: float = 0.1
    adversarial: float = 0.12
    adversarial_start: int = 200
    discriminator_lr: float = 2e-4
    chain_steps: tuple[int, ...] = (2, 5, 9, 9)


@dataclass
class _Pairs:
    """A batch of originals and base decodes, and how often it has been used.

    Attributes:
        syntax_on: [B, 1], zero where the vector is to be neutral.
    """

    x: Tensor
    x_tilde: Tensor
    syntax_on: Tensor
    used: int = 0


@dataclass
class _Chain:
    """A batch on its way down a chain: the state x_t that the next link takes, and all indices."""

    pairs: _Pairs
    x_t: Tensor
    indices: list[int]
    link: int = 0


class _Objective:
    """What both stages share."""

    def __init__(self, network: CgdmNetwork, config: PairConfig) -> None:
        self.network = network
        self.pairing = config
        self.schedule = schedules.cosine(TRAIN_STEPS)
        device = next(network.parameters()).device
        self.base = families.load_codec(config.base, str(device))

    def parameters(self) -> list[nn.Parameter]:
        """All of them."""
        return list(self.network.parameters())

    def pairs(self, x: Tensor, generator: torch.Generator) -> _Pairs:
        """Code a batch with the base, or another codec, at random rates."""
        config = self.pairing
        u = rate_positions(x, generator)
        draw = torch.rand(2, len(x), generator=generator, device=x.device)
        decoded = []
        for each, position, other in zip(x, u.tolist(), draw[0].tolist(), strict=True):
            pixels = to_pixels(each)
            if other < config.others:
                decoded.append(code_with_other(pixels, position, other / config.others))
            else:
                decoded.append(code_with_base(self.base, pixels, position))
        x_tilde = torch.cat([pictures.to_tensor(pixels, x.device) for pixels in decoded])
        return _Pairs(x, x_tilde, (draw[1] >= config.neutral).float()[:, None])

    def syntax(self, pairs: _Pairs, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return vectors [B, S] of whole steps and their bits per pixel [B]."""
        with autocast(pairs.x.device):
            exact, rounded = self.network.syntax(pairs.x, pairs.x_tilde)
        noise = torch.rand(exact.shape, generator=generator, device=exact.device) - 0.5
        bits = gaussian_bits(exact.float() + noise, INDEX_UNIT * self.network.syntax.index)
        bpp = bits.sum(1) / (pairs.x.shape[-1] * pairs.x.shape[-2])
        return rounded.float() * pairs.syntax_on, bpp

    def estimate(self, pairs: _Pairs, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return x_0 [B, 3, H, W], not clamped."""
        with autocast(x_t.device):
            features = self.network.features(pairs.x_tilde)
            residual = self.network.residual(x_t, t, features, s)
        return pairs.x_tilde + residual.float()


class CoarseObjective(_Objective):
    """Noise estimation and rate (eq. 6)."""

    def __init__(self, network: CgdmNetwork, config: CoarseConfig) -> None:
        super().__init__(network, config)
        self.config = config
        self.state: _Pairs | None = None

    def modules(self) -> dict[str, nn.Module]:
        """Nothing is trained beside the network."""
        return {}

    def loss(self, batches: Batches, generator: torch.Generator) -> tuple[Tensor, Logs]:
        """Return the loss of the next batch, or of another use of the last one."""
        pairs = self.state or self.pairs(batches(), generator)
        x = pairs.x
        order = torch.randperm(len(x), generator=generator, device=x.device)
        t = (rate_positions(x, generator)[order] * TRAIN_STEPS).long()
        eps = torch.randn(x.shape, generator=generator, device=x.device)
        s, bpp = self.syntax(pairs, generator)
        x_0 = self.estimate(pairs, self.schedule.diffuse(x, eps, t), t, s)
        weight = self.schedule.snr(t).clamp(max=self.config.snr_limit)
        error = (x_0 - x).square().mean((1, 2, 3))
        loss = (weight * error).mean() + self.config.rate * bpp.mean()
        pairs.used += 1
        self.state = pairs if pairs.used < self.config.reuse else None
        return loss, {
            "loss": loss.item(),
            "bits": bpp.mean().item() * x.shape[-1] * x.shape[-2],
            "psnr": psnr(x_0, x),
            "psnr_base": psnr(pairs.x_tilde, x),
        }


class FineObjective(_Objective):
    """One link of a DDIM chain an update (eq. 7); its output is the next update's input."""

    def __init__(self, network: CgdmNetwork, config: FineConfig) -> None:
        super().__init__(network, config)
        self.config = config
        device = next(network.parameters()).device
        self.lpips = Lpips.load(Path(config.lpips)).to(device)
        self.adversary = Adversary(device, config.discriminator_lr)
        self.alpha_bar = self.schedule.alpha_bar
        self.state: _Chain | None = None
        self.step = 0

    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint has to keep beside the network."""
        return {"discriminator": self.adversary.discriminator}

    def loss(self, batches: Batches, generator: torch.Generator) -> tuple[Tensor, Logs]:
        """Return the loss of the next link."""
        config = self.config
        chain = self.state or self._begin(batches(), generator)
        pairs, n = chain.pairs, chain.indices[chain.link]
        x = pairs.x
        s, bpp = self.syntax(pairs, generator)
        t = torch.full((len(x),), n, device=x.device)
        x_0 = self.estimate(pairs, chain.x_t, t, s)
        grid = grid_energy(x_0, x)
        if chain.link == 0:
            error = distortion(x_0, x, config.colour, config.hue).mean() / (255**2 / 4)
            loss, logs = config.first * error, {"psnr_first": psnr(x_0, x)}
        else:
            loss, logs = self._perceptual(x_0, pairs)
        loss = loss + config.grid * grid + config.rate * bpp.mean()
        logs |= {
            "grid": grid.item(),
            "bits": bpp.mean().item() * x.shape[-1] * x.shape[-2],
            "psnr_base": psnr(pairs.x_tilde, x),
        }
        self.step += 1
        self._advance(chain, x_0.detach().clamp(-1, 1))
        return loss, {"loss": loss.item(), **logs}

    def _begin(self, x: Tensor, generator: torch.Generator) -> _Chain:
        pairs = self.pairs(x, generator)
        lengths = self.config.chain_steps
        pick = int(torch.randint(len(lengths), (), generator=generator, device=x.device))
        indices = schedules.timesteps(lengths[pick], TRAIN_STEPS)
        start = torch.randn(x.shape, generator=generator, device=x.device)
        self.state = _Chain(pairs, start, indices)
        return self.state

    def _advance(self, chain: _Chain, x_0: Tensor) -> None:
        """Take the DDIM step, or drop the batch at the end of its chain."""
        here = float(self.alpha_bar[chain.indices[chain.link]])
        chain.link += 1
        if chain.link == len(chain.indices):
            self.state = None
            return
        there = float(self.alpha_bar[chain.indices[chain.link]])
        eps = (chain.x_t - here**0.5 * x_0) / (1 - here) ** 0.5
        chain.x_t = there**0.5 * x_0 + (1 - there) ** 0.5 * eps

    def _perceptual(self, x_0: Tensor, pairs: _Pairs) -> tuple[Tensor, Logs]:
        config, x = self.config, pairs.x
        with autocast(x.device):
            perceptual = self.lpips(x_0, x).mean()
        error = distortion(x_0, x, config.colour, config.hue).mean() / (255**2 / 4)
        energy = detail_energy(x_0, x)
        loss = config.distortion * error + config.perceptual * perceptual + config.energy * energy
        logs = {
            "lpips": perceptual.item(),
            "energy": energy.item(),
            "psnr": psnr(x_0, x),
        }
        if self.step >= config.adversarial_start:
            loss = loss - config.adversarial * self.adversary.opinion(x_0, pairs.x_tilde)
            logs["discriminator"] = self.adversary.learn(x, x_0.detach(), pairs.x_tilde)
        return loss, logs


def to_pixels(x: Tensor) -> Pixels:
    """Map x [3, H, W] in -1..1 to pixels [H, W, 3]."""
    pixels: Pixels = (
        ((x * 0.5 + 0.5) * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    )
    return pixels


def code_with_base(base: Codec, pixels: Pixels, position: float) -> Pixels:
    """Encode and decode pixels [H, W, 3] at a rate position in 0..1."""
    point = round(position * (base.walk.rate_points - 1))
    height, width = pixels.shape[:2]
    quantised = base.quantise(base.analyse(pixels), point)
    latents = base.walk.code(Meter(), quantised, width, height, point)
    return decode_base(base, latents, width, height, point)


def code_with_other(pixels: Pixels, position: float, choice: float) -> Pixels:
    """Encode and decode pixels [H, W, 3] with one of OTHER_CODECS, at a quality in 0..1."""
    name, (low, high) = list(OTHER_CODECS.items())[int(choice * len(OTHER_CODECS))]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, name, quality=round(low + position * (high - low)))
    with Image.open(file) as image:
        return np.array(image.convert("RGB"))


def initial(preset: str, seed: int, batches: Batches) -> CgdmNetwork:
    """Return networks of a preset as training starts with them: at random.

    Raises:
        InputError: If there is no such preset.
    """
    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset}, not one of {', '.join(PRESETS)}")
    return build(PRESETS[preset], seed)


OBJECTIVES: dict[str, tuple[type, type]] = {
    "coarse": (CoarseObjective, CoarseConfig),
    "fine": (FineObjective, FineConfig),
}
"""Objectives by the name that recipes use, each with its configuration."""
